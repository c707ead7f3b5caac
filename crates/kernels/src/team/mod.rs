//! The thread team: fork-join over numbered tasks, spinning briefly before parking.
//!
//! A forward pass is hundreds of parallel regions of some tens of microseconds with a few
//! microseconds of serial work between them, so workers wait for the next region in a short spin,
//! and give the CPU back when none comes.
//!
//! Tasks are dealt out beforehand (`shares.rs`), and each worker counts what it claims of its share on
//! a cache line of its own; one that is done takes what is left of the others' shares. A region ends
//! when its tasks are done: a worker that has not woken by then is not waited for, which is what keeps
//! a busy machine from stalling it.
//!
//! No word is written by all workers in a region, for each write to one costs as much as the way between
//! two cores, one worker after the other.
//!
//! Must not: be a general thread pool. One region at a time; tasks neither block nor wait for
//! each other.

#[cfg(test)]
#[cfg(shuttle)]
mod schedules;
mod shares;
#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;

use std::{
    any::Any,
    cell::{Cell, UnsafeCell},
    io,
    marker::PhantomData,
    num::NonZeroUsize,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::PoisonError,
    time::{Duration, Instant},
};

use crate::affinity;
use crate::sync::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::{self, JoinHandle, Thread},
    thread_local,
};
use shares::Shares;

/// How long a waiting thread spins before it parks: longer than the serial work between two regions
/// of a forward pass, shorter than anyone would notice on a CPU meter.
const SPIN: Duration = Duration::from_micros(40);

/// One task of a region: `(part, index, worker)`.
type Task<'a> = dyn Fn(usize, usize, usize) + Sync + 'a;

/// A fixed set of worker threads (the caller is one of them).
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// The region being run. Written by the caller while no worker is inside, read by those inside.
struct Region {
    task: *const Task<'static>,
    parts: *const [usize],
    /// Workers of the team.
    workers: usize,
}

/// A value on cache lines of its own, so that its writers do not slow its neighbours' readers.
#[repr(align(128))]
struct Padded<T>(T);

struct Shared {
    /// `number of the region << 32`, and whether it is [`OPEN`] or the team has [`ENDED`]. Written by
    /// callers only.
    state: Padded<AtomicU64>,
    region: Padded<UnsafeCell<Region>>,
    /// Of each worker's share, `number of the region << 32 | tasks that were claimed`, or [`ALL`]. One
    /// with the number of an earlier region says that none was: so nobody need reset them all.
    claimed: Vec<Padded<AtomicU64>>,
    /// Which workers (from 1) are in a region, or looking whether it is still open.
    inside: Vec<Padded<AtomicBool>>,
    /// Which workers (from 1) are parked, or about to be.
    sleeping: Vec<AtomicBool>,
    /// The caller is parked until the last worker leaves.
    caller_waits: Padded<AtomicBool>,
    caller: Mutex<Option<Thread>>,
    /// What the first task that panicked threw.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Held for a whole region: regions of several callers take turns.
    turn: Mutex<()>,
}

// SAFETY: `region` is the only field that is not `Sync`. It is written in `Team::run_parts` under
// `turn`, when the state is closed with no worker inside; workers read it only while inside an open
// region. The pointers in it are to a `Sync` closure and to numbers that outlive the region.
unsafe impl Sync for Shared {}
// SAFETY: as above; the raw pointer is used only while its region runs.
unsafe impl Send for Shared {}

/// Workers may come in.
const OPEN: u64 = 1;
/// There will be no more regions.
const ENDED: u64 = 2;
/// Of a share, instead of their number: all its tasks were claimed.
const ALL: u64 = REGION - 1;
/// One region further.
const REGION: u64 = 1 << 32;

thread_local! {
    /// The team whose region this thread is in, and its worker number there.
    #[allow(clippy::missing_const_for_thread_local)] // shuttle's macro does not know `const`
    static INSIDE: Cell<(*const Shared, usize)> = Cell::new((std::ptr::null(), 0));
}

impl Team {
    /// Starts `threads - 1` workers; the caller of [`Team::run`] is the last one, with number 0.
    ///
    /// Where the system refuses a thread, the team is smaller than asked: see [`Team::threads`].
    pub fn new(threads: NonZeroUsize) -> Self {
        Self::start(threads, &[])
    }

    /// [`Team::new`] with each worker bound to a CPU of its own: worker `n` to `cpus[n]`. The caller's
    /// thread stays free, and finds `cpus[0]` left for it.
    ///
    /// # Errors
    /// Where the system cannot bind threads, or refuses one of these CPUs.
    ///
    /// # Panics
    /// When there are fewer `cpus` than `threads`.
    pub fn pinned(threads: NonZeroUsize, cpus: &[usize]) -> io::Result<Self> {
        assert!(cpus.len() >= threads.get(), "{} CPUs for {threads} threads", cpus.len());
        affinity::check(cpus)?;
        Ok(Self::start(threads, cpus))
    }

    /// Workers that have no place in `cpus` go where the system puts them.
    fn start(threads: NonZeroUsize, cpus: &[usize]) -> Self {
        let shared = Arc::new(Shared {
            state: Padded(AtomicU64::new(0)),
            region: Padded(UnsafeCell::new(Region { task: &|_, _, _| (), parts: &[], workers: 0 })),
            claimed: (0..threads.get()).map(|_| Padded(AtomicU64::new(0))).collect(),
            inside: (0..threads.get()).map(|_| Padded(AtomicBool::new(false))).collect(),
            sleeping: (0..threads.get()).map(|_| AtomicBool::new(false)).collect(),
            caller_waits: Padded(AtomicBool::new(false)),
            caller: Mutex::new(None),
            panic: Mutex::new(None),
            turn: Mutex::new(()),
        });
        let workers = (1..threads.get()).map_while(|number| {
            let shared = Arc::clone(&shared);
            let cpu = cpus.get(number).copied();
            thread::Builder::new()
                .name(format!("wharf-compute-{number}"))
                .spawn(move || {
                    // `pinned` has tried it.
                    let _ = cpu.map(affinity::bind);
                    shared.work(number);
                })
                .ok()
        });
        let workers = workers.collect();
        Self { shared, workers }
    }

    /// Number of threads, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(index, worker)` for each index in `0..tasks`, and returns when all are done.
    /// `worker` is in `0..threads()`, and no two tasks run at once with the same one. As far as workers
    /// come in time, each runs a share of its own: consecutive indices, in proportion the same of every
    /// number of tasks.
    ///
    /// A `run` inside a task of the same team runs in that task's thread, one index after the
    /// other. Calls from several threads take turns.
    ///
    /// # Panics
    /// A panic in a task is re-raised here once all have ended (the first one, if several). With 2³²
    /// tasks.
    pub fn run(&self, tasks: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        self.run_parts(&[tasks], &|_, index, worker| task(index, worker));
    }

    /// [`Team::run`] of several numbers of tasks in one region: `task(part, index, worker)` for each
    /// index in `0..parts[part]`. A worker's share is what it would have of each part alone.
    ///
    /// # Panics
    /// As [`Team::run`].
    pub fn run_parts(&self, parts: &[usize], task: &(dyn Fn(usize, usize, usize) + Sync)) {
        let alone = |worker: usize| {
            for (part, &tasks) in parts.iter().enumerate() {
                (0..tasks).for_each(|index| task(part, index, worker));
            }
        };
        let (inside, worker) = INSIDE.with(Cell::get);
        if std::ptr::eq(inside, Arc::as_ptr(&self.shared)) {
            return alone(worker);
        }
        let turn = lock(&self.shared.turn);
        let shares = Shares::new(parts, self.threads());
        if shares.count() <= 1 {
            let _inside = Inside::enter(&self.shared, 0);
            return alone(0);
        }
        let number = self.shared.open(parts, task, &self.workers);
        self.shared.work_off(number, shares, task, 0);
        self.shared.close(&self.workers);
        let panic = lock(&self.shared.panic).take();
        drop(turn);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// [`Team::run`] over consecutive pieces of `data`, `chunk` values each but the last:
    /// `task(index, piece, worker)`, with the pieces disjoint and so writable.
    ///
    /// # Panics
    /// When `chunk` is 0; and as [`Team::run`].
    pub fn run_chunks<T: Send>(
        &self,
        data: &mut [T],
        chunk: usize,
        task: &(dyn Fn(usize, &mut [T], usize) + Sync),
    ) {
        let len = data.len();
        let data = SharedSlice::new(data);
        self.run(len.div_ceil(chunk), &|index, worker| {
            let start = index * chunk;
            // SAFETY: each index runs once, and the ranges of two indices do not overlap.
            let piece = unsafe { data.range(start..len.min(start + chunk)) };
            task(index, piece, worker);
        });
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        // No region runs: it would have borrowed the team.
        let state = self.shared.state.0.load(SeqCst);
        self.shared.state.0.store(state.wrapping_add(REGION) | ENDED, SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches its tasks' panics; were it to die of another, nothing is lost here.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Publishes a region, of more than one task, and wakes the workers that sleep; its number. Only
    /// under `turn`.
    fn open(&self, parts: &[usize], task: &Task<'_>, workers: &[JoinHandle<()>]) -> u64 {
        // SAFETY: only the lifetime is changed. `Team::run_parts` does not return before `close` has
        // seen every worker outside, and `work_off` does not unwind.
        let task = unsafe { std::mem::transmute::<&Task<'_>, &Task<'static>>(task) };
        let state = self.state.0.load(SeqCst).wrapping_add(REGION);
        debug_assert_eq!(state & (OPEN | ENDED), 0);
        // SAFETY: the state is closed with none inside, so no worker reads; `turn` is held, so no
        // other caller writes.
        unsafe { *self.region.0.get() = Region { task, parts, workers: workers.len() + 1 } };
        if state == 0 {
            // The numbers begin again, and none may be there from the last time round.
            self.claimed.iter().for_each(|claimed| claimed.0.store(0, SeqCst));
        }
        *lock(&self.caller) = Some(thread::current());
        self.state.0.store(state | OPEN, SeqCst);
        // A worker says that it sleeps, then looks at the state again; we change the state, then
        // look who sleeps. One of the two sees the other. More workers than tasks need not wake.
        let tasks: usize = parts.iter().sum();
        let wanted = workers.iter().zip(&self.sleeping[1..]).take(tasks - 1);
        for (worker, sleeping) in wanted {
            // Looked at first: in a row of regions nobody sleeps, and to look is cheaper.
            if sleeping.load(SeqCst) && sleeping.swap(false, SeqCst) {
                worker.thread().unpark();
            }
        }
        state / REGION
    }

    /// Runs tasks of region `number` until none is left to claim. Does not unwind.
    fn work_off(&self, number: u64, shares: Shares<'_>, task: &Task<'_>, worker: usize) {
        let _inside = Inside::enter(self, worker);
        // First its own, then those of the workers after it.
        let own = worker % shares.count();
        for share in (own..shares.count()).chain(0..own) {
            // Whoever is done looks at every share; most have nothing left by then.
            if self.claimed[share].0.load(SeqCst) == number * REGION + ALL {
                continue;
            }
            let len = shares.len(share);
            while let Some(claimed) = self.claim(number, share, len) {
                let (part, index) = shares.task(share, claimed);
                if let Err(payload) = catch_unwind(AssertUnwindSafe(|| task(part, index, worker))) {
                    let mut first = lock(&self.panic);
                    match *first {
                        None => *first = Some(payload),
                        // Not dropped: its destructor might panic, and this must not unwind.
                        Some(_) => std::mem::forget(payload),
                    }
                }
            }
        }
    }

    /// Claims the next task of a share, of `len` tasks, of the region that is open.
    fn claim(&self, number: u64, share: usize, len: usize) -> Option<usize> {
        let claimed = &self.claimed[share].0;
        let mut before = claimed.load(SeqCst);
        loop {
            let next = if before / REGION == number { before % REGION } else { 0 };
            if next == ALL || next as usize >= len {
                return None;
            }
            let now = if next as usize + 1 == len { ALL } else { next + 1 };
            match claimed.compare_exchange(before, number * REGION + now, SeqCst, SeqCst) {
                Ok(_) => return Some(next as usize),
                Err(other) => before = other,
            }
        }
    }

    /// Lets no more workers in, and waits for those inside to leave.
    fn close(&self, workers: &[JoinHandle<()>]) {
        let state = self.state.0.load(SeqCst);
        self.state.0.store(state & !OPEN, SeqCst);
        // A worker says that it is inside, then looks whether the region is open; we close it, then
        // look who is inside. One of the two sees the other, and who is outside now stays there.
        for inside in &self.inside[1..=workers.len()] {
            let outside = || !inside.0.load(SeqCst);
            if spin_until(outside) {
                continue;
            }
            self.caller_waits.0.store(true, SeqCst);
            while !outside() {
                thread::park();
            }
            self.caller_waits.0.store(false, SeqCst);
        }
    }

    /// A worker's life.
    fn work(&self, worker: usize) {
        let mut seen = 0;
        loop {
            let state = self.wait(worker, seen);
            if state & ENDED != 0 {
                return;
            }
            seen = state / REGION;
            if state & OPEN == 0 {
                continue;
            }
            self.inside[worker].0.store(true, SeqCst);
            // Still open?
            if self.state.0.load(SeqCst) == state {
                // SAFETY: this worker is inside an open region, so the caller does not write the
                // region, and keeps what it points to alive, until `inside` is false again.
                let (task, shares) = unsafe {
                    let region = &*self.region.0.get();
                    (&*region.task, Shares::new(&*region.parts, region.workers))
                };
                self.work_off(seen, shares, task, worker);
            }
            self.inside[worker].0.store(false, SeqCst);
            // The caller says that it waits, then looks who is inside: as above.
            if self.caller_waits.0.load(SeqCst)
                && let Some(caller) = &*lock(&self.caller)
            {
                caller.unpark();
            }
        }
    }

    /// Waits for a region after `seen`, or the team's end; the state then.
    fn wait(&self, worker: usize, seen: u64) -> u64 {
        let ready = || {
            let state = self.state.0.load(SeqCst);
            state / REGION != seen || state & ENDED != 0
        };
        if !spin_until(ready) {
            loop {
                self.sleeping[worker].store(true, SeqCst);
                if ready() {
                    self.sleeping[worker].store(false, SeqCst);
                    break;
                }
                thread::park();
            }
        }
        self.state.0.load(SeqCst)
    }
}

/// Marks this thread as inside a region for as long as it lives.
struct Inside {
    before: (*const Shared, usize),
}

impl Inside {
    fn enter(shared: &Shared, worker: usize) -> Self {
        Self { before: INSIDE.with(|inside| inside.replace((shared, worker))) }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.with(|inside| inside.set(self.before));
    }
}

/// Spins for at most [`SPIN`]; whether `ready` came true.
fn spin_until(ready: impl Fn() -> bool) -> bool {
    if cfg!(shuttle) {
        // Time does not pass there; one look more is another order to try.
        thread::yield_now();
        return ready();
    }
    let mut start = None;
    loop {
        for _ in 0..32 {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        // The clock is read only once the first few spins were in vain.
        if start.get_or_insert_with(Instant::now).elapsed() > SPIN {
            return false;
        }
    }
}

/// A panic never happens under these locks, and would not break what they guard.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A slice that the tasks of one region write in places that do not overlap.
pub(crate) struct SharedSlice<'a, T> {
    start: *mut T,
    len: usize,
    of: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a `&mut [T]`; `range`'s contract keeps its parts apart.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), of: PhantomData }
    }

    /// Where value `index` lies; through it nothing may be read or written that another has by
    /// [`SharedSlice::range`] or by a pointer.
    ///
    /// # Panics
    /// When it is not inside the slice.
    pub(crate) fn place(&self, index: usize) -> *mut T {
        assert!(index < self.len);
        self.start.wrapping_add(index)
    }

    /// The values of `range`.
    ///
    /// # Safety
    /// No other range that overlaps may be in use at the same time.
    ///
    /// # Panics
    /// When the range is not inside the slice.
    #[allow(clippy::mut_from_ref)] // the contract above is what `&mut self` would have said
    pub(crate) unsafe fn range(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the slice (just checked), which is borrowed mutably for `'a`; alone by
        // this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
