//! Who makes way for whom: requests of more important priority take slots and blocks from running
//! ones that are less important. vLLM lets a running request do that to another when it needs a
//! block; here one that waits may, too, or a long answer would hold up an urgent question.

use std::collections::HashMap;

use super::{Admission, Plan, Scheduler};
use crate::{block_cache::BlockId, sequence::Rank};

impl Scheduler {
    /// Admits those at the head of the queue that take a slot or blocks from running sequences of
    /// less important priority, worst rank first, and only where that lets them in. Of equal
    /// priority, nobody makes way: who came first goes first.
    ///
    /// Before anything is planned, for a plan has its sequences' blocks. It ends because who makes
    /// way is less important than all that are admitted here, and comes back only when there is
    /// room for it beside them.
    pub(super) fn make_way(&mut self, plan: &mut Plan) {
        while let Some((&rank, _)) = self.waiting.first_key_value() {
            let worst = self.running.last_key_value().map(|(rank, _)| rank.priority);
            if worst.is_none_or(|worst| worst <= rank.priority) {
                return;
            }
            if self.is_still_blocked(rank) && self.blocked.as_ref().is_some_and(|b| b.hopeless) {
                return;
            }
            match self.admit(rank, plan) {
                Admission::Admitted => {}
                Admission::Full if self.could_make_way(rank) => self.preempt_worst(),
                Admission::Full => {
                    let blocked = self.blocked.as_mut().filter(|blocked| blocked.rank == rank);
                    blocked.into_iter().for_each(|blocked| blocked.hopeless = true);
                    return;
                }
                Admission::NotYet => return,
            }
        }
    }

    /// Whether a waiting sequence could be admitted if all running ones of less important priority
    /// were gone.
    fn could_make_way(&self, rank: Rank) -> bool {
        let Some(sequence) = self.waiting.get(&rank) else { return false };
        let mut staying = Vec::new();
        let mut given_back: HashMap<BlockId, u32> = HashMap::new();
        for (other, running) in &self.running {
            if other.priority <= rank.priority {
                staying.push(running);
                continue;
            }
            for &id in &running.block_table {
                *given_back.entry(id).or_default() += 1;
            }
        }
        if staying.len() >= self.max_running {
            return false;
        }
        let free = given_back.iter().filter(|&(&id, &count)| self.cache.references(id) == count);
        let found = self.cached_prefix(rank);
        let cached = &found[..self.usable(&found)];
        // Those that would be free anyway are counted already.
        let shared = cached
            .iter()
            .filter(|&&id| self.cache.references(id) > given_back.get(&id).copied().unwrap_or(0));
        let needed = sequence.num_blocks_needed() - shared.count();
        let headroom = self.headroom(sequence, staying.into_iter());
        self.cache.num_available() + free.count() >= needed + headroom
    }
}
