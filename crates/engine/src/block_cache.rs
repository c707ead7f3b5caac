//! The KV blocks: who refers to them, which are free, and which prefix each full one holds.
//!
//! Full blocks are indexed by (parent, token ids), where the parent is the block before it in the
//! sequence or, for the first one, the salt; so equal keys mean equal tokens from the very start.
//! The index is a hash map that compares whole keys: a hash alone is never trusted. A parent is
//! named by the serial number of its entry, not by its block, and serials are never used twice, so
//! an entry whose parent is gone can't be found under another one.
//!
//! A block is referred to by sequences (counted), or held by the index only (free to be taken,
//! least recently used first), or free. Sequences release their blocks last block first, so a
//! parent is always more recent than its children, and is taken after them.
//!
//! Numbers only: the KV memory itself is the runner's.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
};

use wharf_model::BLOCK_TOKENS;

/// Index of a block in the runner's KV memory.
pub(crate) type BlockId = u32;

/// Token ids of a full block.
pub(crate) type BlockTokens = [u32; BLOCK_TOKENS];

/// Who may share blocks: equal salts only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Salt {
    /// All requests without a salt of their own.
    None,
    /// Requests that name this one.
    Named(Arc<str>),
    /// The choices of one request only: prefix caching is off.
    Request(u64),
}

/// What comes before a block.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Parent {
    /// Nothing: it is the first.
    Root(Salt),
    /// The indexed block with this serial.
    Entry(u64),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    parent: Parent,
    tokens: BlockTokens,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    serial: u64,
}

#[derive(Debug, Default)]
struct Block {
    /// Sequences whose block table has it.
    references: u32,
    /// Set while it is in the index.
    entry: Option<Entry>,
    /// When it was last released; its key in `idle`.
    released: u64,
}

/// All blocks of one engine.
#[derive(Debug)]
pub(crate) struct BlockCache {
    // [num_blocks]
    blocks: Vec<Block>,
    /// Blocks in the index, referred to or not.
    index: HashMap<Key, BlockId>,
    /// Neither referred to nor in the index; the last is taken first.
    free: Vec<BlockId>,
    /// In the index, not referred to, by the time of their release.
    idle: BTreeMap<u64, BlockId>,
    /// Releases so far.
    clock: u64,
    /// Entries made so far.
    serials: u64,
    /// References taken back so far.
    releases: u64,
}

impl BlockCache {
    pub(crate) fn new(num_blocks: u32) -> Self {
        Self {
            blocks: (0..num_blocks).map(|_| Block::default()).collect(),
            index: HashMap::new(),
            free: (0..num_blocks).rev().collect(),
            idle: BTreeMap::new(),
            clock: 0,
            serials: 0,
            releases: 0,
        }
    }

    /// Blocks that [`Self::allocate`] could hand out now.
    pub(crate) fn num_available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// Blocks that sequences refer to.
    pub(crate) fn num_used(&self) -> usize {
        self.blocks.len() - self.num_available()
    }

    pub(crate) fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// References taken back so far. While this stays, no block has become available.
    pub(crate) fn num_releases(&self) -> u64 {
        self.releases
    }

    /// A block with one reference and no meaning yet; forgets the least recently used prefix if
    /// need be. `None`: sequences refer to all of them.
    pub(crate) fn allocate(&mut self) -> Option<BlockId> {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                let (_, id) = self.idle.pop_first()?;
                if let Some(entry) = self.blocks[id as usize].entry.take() {
                    self.index.remove(&entry.key);
                }
                id
            }
        };
        self.blocks[id as usize].references = 1;
        Some(id)
    }

    /// Finds the block that holds `tokens` after `parent`.
    pub(crate) fn find(&self, parent: Parent, tokens: BlockTokens) -> Option<BlockId> {
        self.index.get(&Key { parent, tokens }).copied()
    }

    /// How many sequences' block tables have the block.
    pub(crate) fn references(&self, id: BlockId) -> u32 {
        self.blocks[id as usize].references
    }

    /// One more reference to a block of the index.
    pub(crate) fn acquire(&mut self, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        debug_assert!(block.references > 0 || block.entry.is_some());
        if block.references == 0 {
            self.idle.remove(&block.released);
        }
        block.references += 1;
    }

    /// Takes a reference to `id` back.
    pub(crate) fn release(&mut self, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        debug_assert!(block.references > 0, "block {id} is released twice");
        self.releases += 1;
        block.references -= 1;
        if block.references > 0 {
            return;
        }
        if block.entry.is_some() {
            self.clock += 1;
            block.released = self.clock;
            self.idle.insert(self.clock, id);
        } else {
            self.free.push(id);
        }
    }

    /// Takes back a sequence's references, last block first: see the top of the file.
    pub(crate) fn release_table(&mut self, block_table: &mut Vec<BlockId>) {
        while let Some(id) = block_table.pop() {
            self.release(id);
        }
    }

    /// Puts a full block that its sequence has just computed in the index. Where an equal one is
    /// there already, the caller's reference moves to that one. Returns the block to use.
    pub(crate) fn insert(&mut self, parent: Parent, tokens: BlockTokens, id: BlockId) -> BlockId {
        let key = Key { parent, tokens };
        if let Some(&known) = self.index.get(&key) {
            if known != id {
                self.acquire(known);
                self.release(id);
            }
            return known;
        }
        debug_assert!(self.blocks[id as usize].entry.is_none(), "block {id} has another meaning");
        self.serials += 1;
        self.index.insert(key.clone(), id);
        self.blocks[id as usize].entry = Some(Entry { key, serial: self.serials });
        id
    }

    /// Whether others can find it.
    pub(crate) fn is_indexed(&self, id: BlockId) -> bool {
        self.blocks[id as usize].entry.is_some()
    }

    /// The parent of the block at `index` of a sequence with this salt and block table. `None`:
    /// the block before it isn't in the index, so this one can't be either.
    pub(crate) fn parent(
        &self,
        salt: &Salt,
        block_table: &[BlockId],
        index: usize,
    ) -> Option<Parent> {
        if index == 0 {
            return Some(Parent::Root(salt.clone()));
        }
        let before = block_table[index - 1];
        let entry = self.blocks[before as usize].entry.as_ref()?;
        Some(Parent::Entry(entry.serial))
    }

    /// The indexed blocks that hold the first tokens of a sequence, `most` at the most.
    /// `tokens(i)`: those of its block `i`.
    pub(crate) fn find_prefix(
        &self,
        salt: &Salt,
        most: usize,
        tokens: impl Fn(usize) -> BlockTokens,
    ) -> Vec<BlockId> {
        let mut block_table = Vec::new();
        for index in 0..most {
            let parent = self.parent(salt, &block_table, index);
            let Some(id) = parent.and_then(|parent| self.find(parent, tokens(index))) else {
                break;
            };
            block_table.push(id);
        }
        block_table
    }

    /// Puts a sequence's blocks `filled`, which are full by now, in the index. `tokens(i)`: those of
    /// its block `i`.
    pub(crate) fn insert_filled(
        &mut self,
        salt: &Salt,
        block_table: &mut [BlockId],
        filled: Range<usize>,
        tokens: impl Fn(usize) -> BlockTokens,
    ) {
        for index in filled {
            let Some(parent) = self.parent(salt, block_table, index) else { break };
            block_table[index] = self.insert(parent, tokens(index), block_table[index]);
        }
    }

    /// The slow account of what the fast counters claim.
    #[cfg(test)]
    pub(crate) fn check(&self, tables: &[&[BlockId]]) {
        let mut references = vec![0; self.blocks.len()];
        for &id in tables.iter().copied().flatten() {
            references[id as usize] += 1;
        }
        for (id, block) in self.blocks.iter().enumerate() {
            assert_eq!(block.references, references[id], "references of block {id}");
            let id = id as BlockId;
            let idle = self.idle.get(&block.released) == Some(&id);
            let unused = block.references == 0;
            assert_eq!(idle, unused && block.entry.is_some(), "block {id} idle");
            assert_eq!(self.free.contains(&id), unused && block.entry.is_none(), "block {id} free");
            if let Some(entry) = &block.entry {
                assert_eq!(self.index.get(&entry.key), Some(&id), "block {id} indexed");
            }
        }
        let entries = self.blocks.iter().filter(|block| block.entry.is_some());
        assert_eq!(self.index.len(), entries.count());
        let serials: Vec<_> =
            self.blocks.iter().filter_map(|b| Some(b.entry.as_ref()?.serial)).collect();
        for block in self.blocks.iter().filter_map(|b| b.entry.as_ref()) {
            if let Parent::Entry(serial) = block.key.parent {
                assert!(serials.contains(&serial), "a child outlives its parent");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(first: u32) -> BlockTokens {
        std::array::from_fn(|i| first + i as u32)
    }

    /// A table of indexed blocks with these contents.
    fn fill(cache: &mut BlockCache, salt: &Salt, contents: &[u32]) -> Vec<BlockId> {
        let mut table = Vec::new();
        for (i, &first) in contents.iter().enumerate() {
            let id = cache.allocate().unwrap();
            let parent = cache.parent(salt, &table, i).unwrap();
            table.push(cache.insert(parent, tokens(first), id));
        }
        table
    }

    fn lookup(cache: &BlockCache, salt: &Salt, contents: &[u32]) -> usize {
        let mut table = Vec::new();
        for (i, &first) in contents.iter().enumerate() {
            let parent = cache.parent(salt, &table, i).unwrap();
            match cache.find(parent, tokens(first)) {
                Some(id) => table.push(id),
                None => break,
            }
        }
        table.len()
    }

    #[test]
    fn a_prefix_is_found_by_all_its_tokens_and_its_salt() {
        let mut cache = BlockCache::new(8);
        let table = fill(&mut cache, &Salt::None, &[0, 100, 200]);
        assert_eq!(lookup(&cache, &Salt::None, &[0, 100, 200]), 3);
        assert_eq!(lookup(&cache, &Salt::None, &[0, 100, 201]), 2);
        // The same block after another parent is another block.
        assert_eq!(lookup(&cache, &Salt::None, &[100]), 0);
        assert_eq!(lookup(&cache, &Salt::Named("a".into()), &[0]), 0);
        assert_eq!(lookup(&cache, &Salt::Request(1), &[0]), 0);
        cache.check(&[&table]);
    }

    #[test]
    fn equal_blocks_become_one() {
        let mut cache = BlockCache::new(8);
        let first = fill(&mut cache, &Salt::None, &[0, 100]);
        let second = fill(&mut cache, &Salt::None, &[0, 100]);
        assert_eq!(first, second);
        assert_eq!(cache.num_used(), 2);
        cache.check(&[&first, &second]);
    }

    #[test]
    fn the_least_recently_used_prefix_goes_first_and_children_before_parents() {
        let mut cache = BlockCache::new(4);
        let mut old = fill(&mut cache, &Salt::None, &[0, 100]);
        let mut new = fill(&mut cache, &Salt::None, &[1000, 1100]);
        cache.release_table(&mut old);
        cache.release_table(&mut new);
        assert_eq!(cache.num_used(), 0);
        let mut taken = vec![cache.allocate().unwrap()];
        assert_eq!(lookup(&cache, &Salt::None, &[0, 100]), 1);
        taken.push(cache.allocate().unwrap());
        assert_eq!(lookup(&cache, &Salt::None, &[0]), 0);
        assert_eq!(lookup(&cache, &Salt::None, &[1000, 1100]), 2);
        cache.check(&[&taken]);
    }

    #[test]
    fn a_block_that_a_sequence_refers_to_is_never_taken() {
        let mut cache = BlockCache::new(2);
        let mut table = fill(&mut cache, &Salt::None, &[0, 100]);
        cache.acquire(table[0]);
        cache.release_table(&mut table);
        assert!(cache.allocate().is_some());
        assert!(cache.allocate().is_none());
        assert_eq!(lookup(&cache, &Salt::None, &[0]), 1);
    }

    #[test]
    fn an_entry_is_not_found_under_the_block_that_took_its_parents_place() {
        let mut cache = BlockCache::new(3);
        let mut table = fill(&mut cache, &Salt::None, &[0, 100]);
        // Against the rule: parent first, so that the child outlives it.
        let child = table.pop().unwrap();
        cache.release_table(&mut table);
        cache.release(child);
        let other = [cache.allocate().unwrap(), cache.allocate().unwrap()];
        let parent = cache.parent(&Salt::None, &[], 0).unwrap();
        let other = cache.insert(parent, tokens(7), other[1]);
        let parent = cache.parent(&Salt::None, &[other], 1).unwrap();
        assert_eq!(cache.find(parent, tokens(100)), None);
    }
}
