//! The slots of recurrent state: which sequence has which, and the copies (snapshots) of states that
//! others may go on from.
//!
//! A model with recurrent layers keeps a state of each sequence, as large at its first token as at its
//! last, that stands at one position only. So a prefix in the cache is of use up to a block at whose
//! end a state was copied, and no further. Copies are dear (tens of megabytes), so few are made: where
//! a prompt's last full block ends (the other choices of its request go on from there, and so does the
//! next turn of a conversation), and where a prompt was found to leave what others had computed before
//! (a system prompt that several have). Where slots for copies are short, the least recently used one
//! is overwritten.
//!
//! Slots `0..max_running` are sequences' own, the others copies. Numbers only: the states are the
//! runner's.

use std::collections::{BTreeMap, HashMap};

use wharf_model::{BLOCK_TOKENS, StateSave, StateSlots};

use crate::block_cache::BlockId;

/// Index of a state in the runner's memory.
pub(crate) type SlotId = u32;

/// All slots of one engine.
#[derive(Debug)]
pub(crate) struct States {
    /// Sequences' slots that nobody has.
    free: Vec<SlotId>,
    pub(crate) snapshots: Snapshots,
}

impl States {
    pub(crate) fn new(max_running: u32, num_snapshots: u32) -> Self {
        let copies = max_running..max_running.saturating_add(num_snapshots);
        Self { free: (0..max_running).rev().collect(), snapshots: Snapshots::new(copies) }
    }

    /// A slot for a sequence that begins to run. `None`: as many run as may.
    pub(crate) fn take(&mut self) -> Option<SlotId> {
        self.free.pop()
    }

    /// A sequence runs no longer.
    pub(crate) fn give_back(&mut self, state: SequenceState) {
        self.free.push(state.slot);
        if let Some(kept) = state.restore {
            self.snapshots.let_go(kept);
        }
        if let Some(saving) = state.saving {
            self.snapshots.free.push(saving.slot);
        }
    }
}

/// Copies of states at the ends of blocks.
#[derive(Debug)]
pub(crate) struct Snapshots {
    free: Vec<SlotId>,
    /// By the block at whose end it was made.
    held: HashMap<BlockId, Held>,
    /// The blocks of those that nobody keeps, by the time of their last use.
    by_use: BTreeMap<u64, BlockId>,
    /// Uses so far.
    clock: u64,
}

#[derive(Debug)]
struct Held {
    slot: SlotId,
    /// Its key in `by_use`, unless it is kept.
    used: u64,
    /// Sequences that are about to go on from it.
    keepers: usize,
}

/// A copy that stays as it is until it is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    block: BlockId,
    slot: SlotId,
}

impl Snapshots {
    fn new(slots: std::ops::Range<SlotId>) -> Self {
        let free = slots.rev().collect();
        Self { free, held: HashMap::new(), by_use: BTreeMap::new(), clock: 0 }
    }

    /// Of blocks that follow one another, how many lead up to the last that has a copy.
    pub(crate) fn reach(&self, blocks: &[BlockId]) -> usize {
        blocks.iter().rposition(|id| self.held.contains_key(id)).map_or(0, |last| last + 1)
    }

    /// The copy at the end of a block that a sequence refers to. It is not overwritten before the
    /// sequence's next rows are planned, which may be some steps away: who is let in by `make_way`
    /// may find the step's budget spent.
    pub(crate) fn keep(&mut self, block: BlockId) -> Option<Kept> {
        let held = self.held.get_mut(&block)?;
        self.by_use.remove(&held.used);
        held.keepers += 1;
        Some(Kept { block, slot: held.slot })
    }

    /// Its slot may be written again, after it has been read in the next step. It is the most recently
    /// used one now.
    fn let_go(&mut self, kept: Kept) -> SlotId {
        if let Some(held) = self.held.get_mut(&kept.block) {
            held.keepers -= 1;
            if held.keepers == 0 {
                self.clock += 1;
                held.used = self.clock;
                self.by_use.insert(self.clock, kept.block);
            }
        }
        kept.slot
    }

    /// A slot to copy to; the least recently used copy is forgotten for it if need be. `None`: there
    /// are no slots, or all are about to be read or written.
    fn take(&mut self) -> Option<SlotId> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        let (_, block) = self.by_use.pop_first()?;
        self.held.remove(&block).map(|held| held.slot)
    }

    /// A slot holds a copy made at the end of this block.
    fn hold(&mut self, block: BlockId, slot: SlotId) {
        if self.held.contains_key(&block) {
            // The same bits; and the first may be kept.
            self.free.push(slot);
            return;
        }
        self.clock += 1;
        self.by_use.insert(self.clock, block);
        self.held.insert(block, Held { slot, used: self.clock, keepers: 0 });
    }

    /// The block has another meaning from now on.
    pub(crate) fn forget(&mut self, block: BlockId) {
        if let Some(held) = self.held.remove(&block) {
            debug_assert_eq!(held.keepers, 0, "who keeps a copy refers to its block");
            self.by_use.remove(&held.used);
            self.free.push(held.slot);
        }
    }
}

/// A running sequence's state.
#[derive(Debug)]
pub(crate) struct SequenceState {
    slot: SlotId,
    /// Copied to its slot before its next rows.
    restore: Option<Kept>,
    /// Positions at whose state a copy is worth having, ascending: ends of blocks ahead of it.
    wanted: Vec<usize>,
    /// The copy that the planned rows make.
    saving: Option<Saving>,
}

#[derive(Debug, Clone, Copy)]
struct Saving {
    position: usize,
    slot: SlotId,
}

impl SequenceState {
    /// Of a sequence that begins at `start` from the copy in `restore`. `ends`: how many blocks there
    /// are before a position at whose state a copy is worth having.
    pub(crate) fn new(
        slot: SlotId,
        restore: Option<Kept>,
        start: usize,
        ends: impl IntoIterator<Item = usize>,
    ) -> Self {
        let positions = ends.into_iter().map(|blocks| blocks * BLOCK_TOKENS);
        let mut wanted: Vec<usize> = positions.filter(|position| *position > start).collect();
        wanted.sort_unstable();
        wanted.dedup();
        Self { slot, restore, wanted, saving: None }
    }

    /// It goes on at `position` from another's copy.
    pub(crate) fn skip_to(&mut self, position: usize, restore: Kept, snapshots: &mut Snapshots) {
        if let Some(before) = self.restore.replace(restore) {
            snapshots.let_go(before);
        }
        self.wanted.retain(|wanted| *wanted > position);
    }

    /// How many of `num_rows` rows from `start` to plan: a step makes one copy of a state.
    pub(crate) fn most_rows(&self, start: usize, num_rows: usize) -> usize {
        match self.wanted[..] {
            [first, second, ..] if second <= start + num_rows => first - start,
            _ => num_rows,
        }
    }

    /// What the runner is to do with it beside `num_rows` planned rows from `start`.
    pub(crate) fn plan(
        &mut self,
        start: usize,
        num_rows: usize,
        snapshots: &mut Snapshots,
    ) -> StateSlots {
        let restore = self.restore.take().map(|kept| snapshots.let_go(kept));
        let end = start + num_rows;
        let position = self.wanted.first().copied().filter(|position| *position <= end);
        if let Some(position) = position {
            self.wanted.remove(0);
            self.saving = snapshots.take().map(|slot| Saving { position, slot });
        }
        StateSlots {
            slot: self.slot,
            restore,
            save: self
                .saving
                .map(|Saving { position, slot }| StateSave { after_rows: position - start, slot }),
        }
    }

    /// The planned rows make a copy.
    pub(crate) fn is_saving(&self) -> bool {
        self.saving.is_some()
    }

    /// Rows have been computed: `block_table` is of blocks that others can find. The copy they made
    /// can be found from here on too, and not before.
    pub(crate) fn commit(&mut self, block_table: &[BlockId], snapshots: &mut Snapshots) {
        if let Some(Saving { position, slot }) = self.saving.take() {
            match block_table.get(position / BLOCK_TOKENS - 1) {
                Some(block) => snapshots.hold(*block, slot),
                None => snapshots.free.push(slot),
            }
        }
    }
}

#[cfg(test)]
impl States {
    /// Every slot is somebody's, once.
    pub(crate) fn check<'a>(&self, running: impl Iterator<Item = &'a SequenceState>, total: usize) {
        let Snapshots { free, held, by_use, .. } = &self.snapshots;
        let mut slots: Vec<SlotId> = self.free.iter().chain(free).copied().collect();
        slots.extend(held.values().map(|held| held.slot));
        let mut keepers = 0;
        for state in running {
            keepers += usize::from(state.restore.is_some());
            assert!(state.saving.is_none(), "a copy is never committed");
            slots.push(state.slot);
        }
        slots.sort_unstable();
        assert!(slots.iter().copied().eq(0..total as u32), "{slots:?} of {total}");
        assert_eq!(keepers, held.values().map(|held| held.keepers).sum::<usize>());
        let mut left = held.iter().filter(|(_, held)| held.keepers == 0);
        assert_eq!(by_use.len(), left.clone().count());
        assert!(left.all(|(block, held)| by_use.get(&held.used) == Some(block)));
    }

    /// Blocks with a copy.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = BlockId> {
        self.snapshots.held.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_copy_is_overwritten() {
        let mut snapshots = States::new(2, 2).snapshots;
        for block in [10, 11] {
            let slot = snapshots.take().unwrap();
            snapshots.hold(block, slot);
        }
        assert_eq!(snapshots.reach(&[9, 10, 11, 12]), 3);
        let first = snapshots.keep(10).unwrap();
        snapshots.let_go(first);
        let slot = snapshots.take().unwrap();
        snapshots.hold(12, slot);
        assert_eq!(snapshots.keep(11), None);
        assert_eq!(snapshots.keep(10), Some(first));
        snapshots.let_go(first);
        snapshots.forget(10);
        assert_eq!(snapshots.take(), Some(first.slot));
        assert_eq!(snapshots.reach(&[9, 10]), 0);
    }

    #[test]
    fn a_copy_that_is_kept_is_not_overwritten() {
        let mut snapshots = States::new(1, 2).snapshots;
        for block in [10, 11] {
            let slot = snapshots.take().unwrap();
            snapshots.hold(block, slot);
        }
        let (first, again) = (snapshots.keep(10).unwrap(), snapshots.keep(10).unwrap());
        let second = snapshots.take().unwrap();
        assert_ne!(second, first.slot);
        assert_eq!(snapshots.take(), None);
        // Another copy of the same leaves the first one where it is.
        snapshots.hold(10, second);
        assert_eq!(snapshots.take(), Some(second));
        snapshots.let_go(first);
        assert_eq!(snapshots.take(), None);
        assert_eq!(snapshots.let_go(again), first.slot);
        assert_eq!(snapshots.take(), Some(first.slot));
    }

    #[test]
    fn a_step_makes_one_copy_and_what_is_behind_is_not_wanted() {
        let mut states = States::new(1, 4);
        let slot = states.take().unwrap();
        let mut state = SequenceState::new(slot, None, 16, [4, 1, 2, 2]);
        assert_eq!(state.wanted, [32, 64]);
        assert_eq!(state.most_rows(16, 47), 47);
        assert_eq!(state.most_rows(16, 48), 16);
        let planned = state.plan(16, 16, &mut states.snapshots);
        assert_eq!(planned.save.map(|save| save.after_rows), Some(16));
        state.commit(&[5, 6], &mut states.snapshots);
        assert_eq!(states.snapshots.reach(&[5, 6]), 2);
        assert_eq!(state.plan(32, 31, &mut states.snapshots).save, None);
        let kept = states.snapshots.keep(6).unwrap();
        state.skip_to(64, kept, &mut states.snapshots);
        let planned = state.plan(64, 9, &mut states.snapshots);
        assert_eq!((planned.restore, planned.save), (Some(kept.slot), None));
        assert_eq!(state.plan(73, 1, &mut states.snapshots).restore, None);
    }

    #[test]
    fn without_slots_for_copies_none_are_made() {
        let mut states = States::new(1, 0);
        let mut state = SequenceState::new(states.take().unwrap(), None, 0, [1]);
        assert_eq!(state.plan(0, 20, &mut states.snapshots).save, None);
        state.commit(&[5, 6], &mut states.snapshots);
        assert_eq!(states.snapshots.reach(&[5, 6]), 0);
        states.give_back(state);
        states.check(std::iter::empty(), 1);
    }
}
