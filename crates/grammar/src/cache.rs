//! Compiled constraints, kept for the next request with an equal grammar.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{Constraint, Grammar};

/// The last ones used. So few that a search through all of them costs less than hashing one:
/// grammars that differ differ early as a rule.
pub(crate) struct Cache {
    /// The latest last.
    kept: Mutex<VecDeque<(Grammar, Constraint)>>,
    most: usize,
}

impl Cache {
    pub(crate) fn new(most: usize) -> Self {
        Self { kept: Mutex::new(VecDeque::new()), most }
    }

    pub(crate) fn get(&self, grammar: &Grammar) -> Option<Constraint> {
        let mut kept = self.lock();
        let at = kept.iter().position(|(known, _)| known == grammar)?;
        let found = kept.remove(at)?;
        let constraint = found.1.clone();
        kept.push_back(found);
        Some(constraint)
    }

    pub(crate) fn insert(&self, grammar: Grammar, constraint: Constraint) {
        let mut kept = self.lock();
        if self.most == 0 || kept.iter().any(|(known, _)| *known == grammar) {
            return;
        }
        if kept.len() >= self.most {
            kept.pop_front();
        }
        kept.push_back((grammar, constraint));
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Grammar, Constraint)>> {
        // No half-done change can be seen: each is one operation.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
