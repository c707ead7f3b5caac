//! How much prefill a step takes beside sequences that decode: for each prompt that waits, as much as
//! stretches their gaps by about one, and no more. What that is depends on the machine, the model and the
//! company, so it is learnt from what the steps before have taken.
//!
//! Whatever it says, answers are the same to the bit: rows do not depend on how prompts are cut.
//! Pure: the clock is the caller's.

use std::time::Duration;

/// The part of a decode step's time that a prompt may add to it: less than one, for the estimate is
/// not exact, and the gap of two steps is to stay under the double. Of several prompts each may: all
/// decode the sooner, and the gaps of one that already does are no reason to keep many waiting.
const SHARE: f64 = 0.8;
/// Gaps below this are nobody's concern: a decode step counts as so long at least.
const SHORTEST: Duration = Duration::from_millis(2);
/// Fewest rows of prefill for each prompt that waits. Where a row costs as much alone as beside others
/// these may take longer than all who decode; with fewer, keys and values of a long prompt would be read
/// for next to nothing.
const FEWEST_ROWS: usize = 4;
/// Steps with prefill after which one goes by with hardly any, to see what decoding takes by now; and
/// after which one may, when more sequences decode than last time, or fewer.
const LOOK_AFTER: u32 = 32;
const LOOK_SOON_AFTER: u32 = 8;
/// Weight of a new measurement.
const NEW: f64 = 0.25;

/// What steps take.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Of a step that only decodes.
    decode: Estimate,
    /// Of a row of prefill, beyond that.
    row: Estimate,
    /// How many decoded when it was last seen what decoding takes.
    decoding: usize,
    /// Steps with prefill since.
    mixed: u32,
}

/// Seconds, moving slowly.
#[derive(Debug, Default, Clone, Copy)]
struct Estimate(Option<f64>);

impl Estimate {
    fn observe(&mut self, seconds: f64) {
        self.0 = Some(match self.0 {
            None => seconds,
            // A thread that was off its core for a while says nothing of the work.
            Some(known) => known + NEW * (seconds.min(2.0 * known) - known),
        });
    }
}

impl Pace {
    /// Takes in a step's time.
    pub(crate) fn observe(&mut self, decode_rows: usize, prefill_rows: usize, took: Duration) {
        let took = took.as_secs_f64();
        match (decode_rows, prefill_rows) {
            (0, 0) => {}
            (decoding, 0 | 1) if decoding > 0 => {
                let row = self.row.0.filter(|_| prefill_rows > 0).unwrap_or(0.0);
                self.decode.observe((took - row).max(took * 0.5));
                (self.decoding, self.mixed) = (decoding, 0);
            }
            (decoding, rows) => {
                let decode = if decoding > 0 { self.decode.0.unwrap_or(0.0) } else { 0.0 };
                // Never zero, from which no estimate would come back.
                self.row.observe((took - decode).max(took * 0.1).max(1e-9) / rows as f64);
                self.mixed = self.mixed.saturating_add(u32::from(decoding > 0));
            }
        }
    }

    /// Rows of prefill for a step in which `decoding` sequences decode and `waiting` prompts wait,
    /// `most` at most.
    pub(crate) fn prefill_rows(&self, most: usize, decoding: usize, waiting: usize) -> usize {
        let soon = decoding != self.decoding && self.mixed >= LOOK_SOON_AFTER;
        match decoding > 0 && (soon || self.mixed >= LOOK_AFTER) {
            true => 1.min(most),
            false => self.rows_beside(most, waiting),
        }
    }

    /// Rows of `prompts` prompts, `most` at most, that stretch a gap by no more than they may.
    pub(crate) fn rows_beside(&self, most: usize, prompts: usize) -> usize {
        let (Some(decode), Some(row)) = (self.decode.0, self.row.0) else { return most };
        let prompts = prompts.max(1);
        let share = SHARE * prompts as f64;
        let rows = share * decode.max(SHORTEST.as_secs_f64()) / row;
        // `as` saturates.
        (rows as usize).clamp(FEWEST_ROWS.saturating_mul(prompts).min(most), most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of a machine on which decoding takes `decode` and a row of prefill `row`.
    fn learnt(decode: Duration, row: Duration) -> Pace {
        let mut pace = Pace::default();
        for step in 0..40 {
            match step % 2 {
                0 => pace.observe(7, 0, decode),
                _ => pace.observe(7, 100, decode + 100 * row),
            }
        }
        pace
    }

    #[test]
    fn prefill_takes_less_than_a_decode_step() {
        let pace = learnt(Duration::from_millis(50), Duration::from_micros(500));
        assert_eq!(pace.rows_beside(512, 1), 80);
        assert_eq!(pace.rows_beside(40, 1), 40);
        // Slow rows: still a few, or the prompt would never end.
        let pace = learnt(Duration::from_millis(5), Duration::from_millis(3));
        assert_eq!(pace.rows_beside(512, 1), 4);
        assert_eq!(pace.rows_beside(3, 1), 3);
        assert_eq!(pace.rows_beside(512, 5), 20);
        // Where all is fast, nothing is held back.
        let pace = learnt(Duration::from_micros(20), Duration::from_nanos(100));
        assert_eq!(pace.rows_beside(512, 1), 512);
    }

    #[test]
    fn several_prompts_take_a_share_each() {
        let pace = learnt(Duration::from_millis(50), Duration::from_micros(500));
        assert_eq!(pace.rows_beside(512, 0), 80);
        assert_eq!(pace.rows_beside(512, 3), 240);
        assert_eq!(pace.rows_beside(512, 100), 512);
    }

    #[test]
    fn what_decoding_takes_is_looked_at_again() {
        let mut pace = learnt(Duration::from_millis(50), Duration::from_micros(500));
        pace.observe(7, 0, Duration::from_millis(50));
        let mut looks = Vec::new();
        for step in 0..100 {
            // From step 40 on nine decode, which takes twice as long.
            let (decoding, decode) = if step < 40 { (7, 50) } else { (9, 100) };
            let rows = pace.prefill_rows(512, decoding, 1);
            if rows == 1 {
                looks.push(step);
            }
            let took = Duration::from_millis(decode) + rows as u32 * Duration::from_micros(500);
            pace.observe(decoding, rows, took);
        }
        assert_eq!(looks, [32, 41, 74]);
        // Nobody is held up for it where nobody decodes.
        let mut pace = learnt(Duration::from_millis(50), Duration::from_micros(500));
        for _ in 0..100 {
            assert!(pace.prefill_rows(512, 0, 1) > 1);
            pace.observe(0, 80, Duration::from_millis(40));
        }
    }

    #[test]
    fn what_is_not_known_holds_nothing_back() {
        let mut pace = Pace::default();
        assert_eq!(pace.rows_beside(256, 1), 256);
        pace.observe(0, 256, Duration::from_millis(100));
        assert_eq!(pace.rows_beside(256, 1), 256);
        pace.observe(0, 0, Duration::ZERO);
        pace.observe(3, 0, Duration::from_millis(10));
        assert_eq!(pace.rows_beside(256, 1), 20);
    }

    #[test]
    fn one_long_step_changes_little() {
        let mut pace = learnt(Duration::from_millis(50), Duration::from_micros(500));
        pace.observe(7, 100, Duration::from_secs(3));
        assert!(pace.rows_beside(512, 1) >= 60);
        // A machine that has become slower is believed after a while.
        for _ in 0..40 {
            pace.observe(7, 20, Duration::from_millis(50 + 20 * 2));
        }
        assert!((18..=22).contains(&pace.rows_beside(512, 1)));
    }
}
