//! The thread team: fork-join over numbered tasks, spinning briefly before parking.
//!
//! A forward pass is hundreds of parallel regions of some tens of microseconds with a few
//! microseconds of serial work between them, so workers wait for the next region in a short spin,
//! and give the CPU back when none comes. A region ends when its tasks are done: a worker that has
//! not woken by then is not waited for, which is what keeps a busy machine from stalling it.
//!
//! Must not: be a general thread pool. One region at a time; tasks neither block nor wait for
//! each other.

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
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle, Thread},
    thread_local,
};

/// How long a waiting thread spins before it parks: longer than the serial work between two regions
/// of a forward pass, shorter than anyone would notice on a CPU meter.
const SPIN: Duration = Duration::from_micros(40);

/// One task of a region: `(index, worker)`.
type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// A fixed set of worker threads (the caller is one of them).
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// The region being run. Written by the caller while no worker is joined, read by joined workers.
struct Region {
    task: *const Task<'static>,
    tasks: usize,
}

/// A value on cache lines of its own, so that its writers do not slow its neighbours' readers.
#[repr(align(128))]
struct Padded<T>(T);

struct Shared {
    /// `number of the region << 32 | OPEN | workers joined`.
    state: Padded<AtomicU64>,
    /// The next task to claim.
    next: Padded<AtomicUsize>,
    region: UnsafeCell<Region>,
    /// Which workers (from 1) are parked, or about to be.
    sleeping: Vec<AtomicBool>,
    /// The caller is parked until the last worker leaves.
    caller_waits: AtomicBool,
    caller: Mutex<Option<Thread>>,
    /// What the first task that panicked threw.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Held for a whole region: regions of several callers take turns.
    turn: Mutex<()>,
    shutdown: AtomicBool,
}

// SAFETY: `region` is the only field that is not `Sync`. It is written in `Team::run` under `turn`,
// when the state is closed with no worker joined; workers read it only while joined to an open
// region. The pointer in it is to a `Sync` closure that outlives the region (see `run`).
unsafe impl Sync for Shared {}
// SAFETY: as above; the raw pointer is used only while its region runs.
unsafe impl Send for Shared {}

/// Workers may join.
const OPEN: u64 = 1 << 31;
/// Mask of the number of workers joined.
const JOINED: u64 = OPEN - 1;
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
            next: Padded(AtomicUsize::new(0)),
            region: UnsafeCell::new(Region { task: &|_, _| (), tasks: 0 }),
            sleeping: (0..threads.get()).map(|_| AtomicBool::new(false)).collect(),
            caller_waits: AtomicBool::new(false),
            caller: Mutex::new(None),
            panic: Mutex::new(None),
            turn: Mutex::new(()),
            shutdown: AtomicBool::new(false),
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
    /// `worker` is in `0..threads()`, and no two tasks run at once with the same one.
    ///
    /// A `run` inside a task of the same team runs in that task's thread, one index after the
    /// other. Calls from several threads take turns.
    ///
    /// # Panics
    /// A panic in a task is re-raised here once all have ended (the first one, if several).
    pub fn run(&self, tasks: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        let (inside, worker) = INSIDE.with(Cell::get);
        if std::ptr::eq(inside, Arc::as_ptr(&self.shared)) {
            return (0..tasks).for_each(|index| task(index, worker));
        }
        let turn = lock(&self.shared.turn);
        if self.workers.is_empty() || tasks <= 1 {
            let _inside = Inside::enter(&self.shared, 0);
            return (0..tasks).for_each(|index| task(index, 0));
        }
        self.shared.open(tasks, task, &self.workers);
        self.shared.claim(tasks, task, 0);
        self.shared.close();
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
        self.shared.shutdown.store(true, SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches its tasks' panics; were it to die of another, nothing is lost here.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Publishes a region and wakes the workers that sleep. Only under `turn`.
    fn open(&self, tasks: usize, task: &Task<'_>, workers: &[JoinHandle<()>]) {
        // SAFETY: only the lifetime is changed. `Team::run` does not return before `close` has
        // seen the last joined worker leave, and `claim` does not unwind.
        let task = unsafe { std::mem::transmute::<&Task<'_>, &Task<'static>>(task) };
        let state = self.state.0.load(SeqCst);
        debug_assert_eq!(state & (OPEN | JOINED), 0);
        // SAFETY: the state is closed with none joined, so no worker reads; `turn` is held, so no
        // other caller writes.
        unsafe { *self.region.get() = Region { task, tasks } };
        self.next.0.store(0, SeqCst);
        *lock(&self.caller) = Some(thread::current());
        self.state.0.store(state.wrapping_add(REGION) | OPEN, SeqCst);
        // A worker says that it sleeps, then looks at the state again; we change the state, then
        // look who sleeps. One of the two sees the other. More workers than tasks need not wake.
        let wanted = workers.iter().zip(&self.sleeping[1..]).take(tasks - 1);
        for (worker, sleeping) in wanted {
            if sleeping.swap(false, SeqCst) {
                worker.thread().unpark();
            }
        }
    }

    /// Runs tasks until none is left. Does not unwind.
    fn claim(&self, tasks: usize, task: &Task<'_>, worker: usize) {
        let _inside = Inside::enter(self, worker);
        loop {
            let index = self.next.0.fetch_add(1, SeqCst);
            if index >= tasks {
                return;
            }
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| task(index, worker))) {
                let mut first = lock(&self.panic);
                match *first {
                    None => *first = Some(payload),
                    // Not dropped: its destructor might panic, and this must not unwind.
                    Some(_) => std::mem::forget(payload),
                }
            }
        }
    }

    /// Lets no more workers in, and waits for those inside to leave.
    fn close(&self) {
        if self.state.0.fetch_and(!OPEN, SeqCst) & JOINED == 0 {
            return;
        }
        let empty = || self.state.0.load(SeqCst) & JOINED == 0;
        if spin_until(empty) {
            return;
        }
        self.caller_waits.store(true, SeqCst);
        while !empty() {
            thread::park();
        }
        self.caller_waits.store(false, SeqCst);
    }

    /// A worker's life.
    fn work(&self, number: usize) {
        let mut seen = 0;
        while self.wait(number, seen) {
            let state = self.state.0.load(SeqCst);
            let open = state & OPEN != 0;
            if !open {
                seen = state / REGION;
                continue;
            }
            if self.state.0.compare_exchange(state, state + 1, SeqCst, SeqCst).is_err() {
                continue;
            }
            seen = state / REGION;
            // SAFETY: this worker is joined to an open region, so the caller does not write the
            // region, and keeps its closure alive, until `fetch_sub` below.
            let (task, tasks) = unsafe {
                let region = &*self.region.get();
                (&*region.task, region.tasks)
            };
            self.claim(tasks, task, number);
            let before = self.state.0.fetch_sub(1, SeqCst);
            let last = before & (OPEN | JOINED) == 1;
            if last
                && self.caller_waits.load(SeqCst)
                && let Some(caller) = &*lock(&self.caller)
            {
                caller.unpark();
            }
        }
    }

    /// Waits for a region after `seen`; false when the team ends.
    fn wait(&self, number: usize, seen: u64) -> bool {
        let ready = || self.state.0.load(SeqCst) / REGION != seen || self.shutdown.load(SeqCst);
        if !spin_until(ready) {
            loop {
                self.sleeping[number].store(true, SeqCst);
                if ready() {
                    self.sleeping[number].store(false, SeqCst);
                    break;
                }
                thread::park();
            }
        }
        !self.shutdown.load(SeqCst)
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

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    fn team(threads: usize) -> Team {
        Team::new(NonZeroUsize::new(threads).unwrap())
    }

    #[test]
    fn every_task_runs_once_over_many_tiny_regions() {
        for threads in [1, 2, 4, 9] {
            let team = team(threads);
            for round in 0..3000 {
                let tasks = round % 17;
                let ran: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
                team.run(tasks, &|index, worker| {
                    assert!(worker < team.threads());
                    ran[index].fetch_add(1, SeqCst);
                });
                assert!(ran.iter().all(|n| n.load(SeqCst) == 1), "{threads} threads, {round}");
            }
        }
    }

    #[test]
    fn workers_wake_after_parking() {
        let team = team(3);
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(2));
            let sum = AtomicUsize::new(0);
            team.run(100, &|index, _| {
                sum.fetch_add(index, SeqCst);
            });
            assert_eq!(sum.into_inner(), 4950);
        }
    }

    #[test]
    fn one_worker_number_is_never_in_two_tasks_at_once() {
        let team = team(4);
        let busy: Vec<AtomicBool> = (0..4).map(|_| AtomicBool::new(false)).collect();
        for _ in 0..200 {
            team.run(40, &|_, worker| {
                assert!(!busy[worker].swap(true, SeqCst));
                std::hint::spin_loop();
                busy[worker].store(false, SeqCst);
            });
        }
    }

    #[test]
    fn a_panic_is_raised_in_the_caller_and_the_team_lives_on() {
        for threads in [1, 2, 4] {
            let team = team(threads);
            for bad in [0, 3, 9] {
                let caught = catch_unwind(AssertUnwindSafe(|| {
                    team.run(10, &|index, _| assert!(index != bad, "task {index} fails"));
                }));
                let message = *caught.unwrap_err().downcast::<String>().unwrap();
                assert_eq!(message, format!("task {bad} fails"));
                let ran = AtomicUsize::new(0);
                team.run(10, &|_, _| {
                    ran.fetch_add(1, SeqCst);
                });
                assert_eq!(ran.into_inner(), 10);
            }
        }
    }

    /// Dropping the second task's payload used to unwind out of the region, past the workers that
    /// were still in it.
    #[test]
    fn payloads_that_panic_when_dropped_do_not_break_the_region() {
        struct Bomb(usize);
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("payload {} was dropped", self.0);
            }
        }
        for threads in [2, 4] {
            let team = team(threads);
            let ran = AtomicUsize::new(0);
            let caught = catch_unwind(AssertUnwindSafe(|| {
                team.run(10, &|index, _| {
                    ran.fetch_add(1, SeqCst);
                    std::panic::panic_any(Bomb(index));
                });
            }));
            let payload = caught.unwrap_err();
            assert!(payload.is::<Bomb>());
            std::mem::forget(payload);
            assert_eq!(ran.into_inner(), 10);
            let sum = AtomicUsize::new(0);
            team.run(10, &|index, _| {
                sum.fetch_add(index, SeqCst);
            });
            assert_eq!(sum.into_inner(), 45);
        }
    }

    #[test]
    fn a_region_inside_a_task_runs_in_its_thread() {
        for threads in [1, 3] {
            let team = team(threads);
            let ran = AtomicUsize::new(0);
            team.run(4, &|_, outer| {
                team.run(5, &|_, inner| {
                    assert_eq!(outer, inner);
                    ran.fetch_add(1, SeqCst);
                });
            });
            assert_eq!(ran.into_inner(), 20);
        }
    }

    #[test]
    fn callers_from_several_threads_take_turns() {
        let team = team(3);
        let sum = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        team.run(7, &|index, _| {
                            sum.fetch_add(index, SeqCst);
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * 200 * 21);
    }

    #[test]
    fn chunks_cover_the_slice() {
        let team = team(2);
        let mut data = vec![0usize; 103];
        team.run_chunks(&mut data, 10, &|index, piece, _| {
            piece.iter_mut().for_each(|x| *x = index + 1);
        });
        assert!(data.iter().enumerate().all(|(i, &x)| x == i / 10 + 1));
    }
}

/// Orders of the threads' steps, thousands of them: no region is lost, run twice or left waiting.
/// `RUSTFLAGS="--cfg shuttle" cargo test -p wharf-kernels --lib team::schedules`
#[cfg(test)]
#[cfg(shuttle)]
mod schedules {
    use super::*;

    /// Each way of drawing orders, this many of them.
    const ORDERS: usize = 20_000;

    fn check(scenario: impl Fn() + Send + Sync + Copy + 'static) {
        shuttle::check_random(scenario, ORDERS);
        shuttle::check_pct(scenario, ORDERS, 3);
    }

    /// Runs regions of `sizes` tasks and counts them.
    fn run_regions(team: &Team, sizes: &[usize]) {
        for &size in sizes {
            let runs: Vec<AtomicUsize> = (0..size).map(|_| AtomicUsize::new(0)).collect();
            let busy: Vec<AtomicBool> =
                (0..team.threads()).map(|_| AtomicBool::new(false)).collect();
            team.run(size, &|index, worker| {
                assert!(!busy[worker].swap(true, SeqCst), "worker {worker} is in two tasks");
                runs[index].fetch_add(1, SeqCst);
                busy[worker].store(false, SeqCst);
            });
            assert!(runs.iter().all(|runs| runs.load(SeqCst) == 1));
        }
    }

    fn team(threads: usize) -> Team {
        Team::new(NonZeroUsize::new(threads).unwrap())
    }

    #[test]
    fn every_task_runs_once_and_the_team_ends() {
        check(|| run_regions(&team(3), &[3, 1, 4, 2]));
    }

    #[test]
    fn callers_take_turns() {
        check(|| {
            let ours = Arc::new(team(2));
            let theirs = Arc::clone(&ours);
            let other = thread::spawn(move || run_regions(&theirs, &[2, 3]));
            run_regions(&ours, &[3, 2]);
            other.join().unwrap();
        });
    }
}
