//! How much prefill a step takes beside sequences that decode: as much as stretches their gaps to
//! about double, and no more. What that is depends on the machine, the model and the company, so it
//! is learnt from what the steps before have taken.
//!
//! Whatever it says, answers are the same to the bit: rows do not depend on how prompts are cut.
//! Pure: the clock is the caller's.

use std::time::Duration;

/// The part of a decode step's time that prefill may add to it: less than one, for the estimate is
/// not exact, and the gap of two steps is to stay under the double.
const SHARE: f64 = 0.8;
/// Gaps below this are nobody's concern: a decode step counts as so long at least.
const SHORTEST: Duration = Duration::from_millis(2);
/// Fewest rows of prefill, or a prompt would never end. Where a row costs as much alone as beside
/// others, even these may take as long as all who decode.
const FEWEST_ROWS: usize = 4;
/// Weight of a new measurement.
const NEW: f64 = 0.25;

/// What steps take.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Of a step that only decodes.
    decode: Estimate,
    /// Of a row of prefill, beyond that.
    row: Estimate,
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
            (_, 0) => self.decode.observe(took),
            (decoding, rows) => {
                let decode = if decoding > 0 { self.decode.0.unwrap_or(0.0) } else { 0.0 };
                // Never zero, from which no estimate would come back.
                self.row.observe((took - decode).max(took * 0.1).max(1e-9) / rows as f64);
            }
        }
    }

    /// Rows of prefill for a step in which others decode, `most` at most.
    pub(crate) fn prefill_rows(&self, most: usize) -> usize {
        let (Some(decode), Some(row)) = (self.decode.0, self.row.0) else { return most };
        let rows = SHARE * decode.max(SHORTEST.as_secs_f64()) / row;
        // `as` saturates.
        (rows as usize).clamp(FEWEST_ROWS.min(most), most)
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
        assert_eq!(pace.prefill_rows(512), 80);
        assert_eq!(pace.prefill_rows(40), 40);
        // Slow rows: still a few, or the prompt would never end.
        let pace = learnt(Duration::from_millis(5), Duration::from_millis(3));
        assert_eq!(pace.prefill_rows(512), 4);
        assert_eq!(pace.prefill_rows(3), 3);
        // Where all is fast, nothing is held back.
        let pace = learnt(Duration::from_micros(20), Duration::from_nanos(100));
        assert_eq!(pace.prefill_rows(512), 512);
    }

    #[test]
    fn what_is_not_known_holds_nothing_back() {
        let mut pace = Pace::default();
        assert_eq!(pace.prefill_rows(256), 256);
        pace.observe(0, 256, Duration::from_millis(100));
        assert_eq!(pace.prefill_rows(256), 256);
        pace.observe(0, 0, Duration::ZERO);
        pace.observe(3, 0, Duration::from_millis(10));
        assert_eq!(pace.prefill_rows(256), 20);
    }

    #[test]
    fn one_long_step_changes_little() {
        let mut pace = learnt(Duration::from_millis(50), Duration::from_micros(500));
        pace.observe(7, 100, Duration::from_secs(3));
        assert!(pace.prefill_rows(512) >= 60);
        // A machine that has become slower is believed after a while.
        for _ in 0..40 {
            pace.observe(7, 20, Duration::from_millis(50 + 20 * 2));
        }
        assert!((18..=22).contains(&pace.prefill_rows(512)));
    }
}
