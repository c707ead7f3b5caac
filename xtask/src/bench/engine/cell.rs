//! The cells of the table: what each asks of a server, and how its figure reads.

use clap::ValueEnum;

/// What a cell measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Cell {
    /// Prompt tokens per second until the first token of the answer, 512 at a time
    Prefill512,
    /// The same of 2,048
    Prefill2048,
    /// Tokens per second of one stream, after its first
    Decode,
    /// Output tokens per second of 8 streams, 256 tokens in and 128 out
    Streams8,
    /// The same of 16
    Streams16,
    /// Time between tokens of 7 streams while an eighth prompt of 4,096 tokens is computed
    Gap,
    /// Time to the first token of 8,000 prompt tokens of which 7,500 are cached
    Cached,
    /// Time from start to ready, the file in the page cache
    Start,
    /// Peak memory under 8 streams
    Memory,
}

/// What a server must have room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) slots: usize,
    /// Tokens of each.
    pub(super) context: usize,
}

pub(super) const STREAM_INPUT: usize = 256;
pub(super) const STREAM_OUTPUT: usize = 128;
pub(super) const GAP_PROMPT: usize = 4096;
pub(super) const GAP_STREAMS: usize = 7;
pub(super) const CACHED_PROMPT: usize = 8000;
pub(super) const CACHED_PREFIX: usize = 7500;
/// For a chat template, and for words of more than one token.
const SLACK: usize = 128;

impl Cell {
    /// As on the command line.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Prefill512 => "prefill of 512",
            Self::Prefill2048 => "prefill of 2,048",
            Self::Decode => "decode, 1 stream",
            Self::Streams8 => "8 streams",
            Self::Streams16 => "16 streams",
            Self::Gap => "gap p99 beside a prefill of 4,096",
            Self::Cached => "first token of 8,000, 7,500 cached",
            Self::Start => "start",
            Self::Memory => "peak memory",
        }
    }

    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Prefill512 | Self::Prefill2048 => "tok/s",
            Self::Decode | Self::Streams8 | Self::Streams16 => "tok/s",
            Self::Gap | Self::Cached => "ms",
            Self::Start => "s",
            Self::Memory => "MB",
        }
    }

    pub(super) fn lower_is_better(self) -> bool {
        matches!(self, Self::Gap | Self::Cached | Self::Start | Self::Memory)
    }

    /// What the figure is set against in the columns of shares, if anything.
    pub(super) fn measure_of_share(self) -> Option<&'static str> {
        match self {
            Self::Prefill512 | Self::Prefill2048 => Some("of the kernels' best multiplication"),
            Self::Decode => Some("of the memory's bandwidth"),
            Self::Gap => Some("of the gap without the prefill"),
            Self::Cached => Some("of the same without a cache"),
            Self::Memory => Some("of file + keys and values + 150 MB"),
            Self::Streams8 | Self::Streams16 | Self::Start => None,
        }
    }

    pub(super) fn room(self) -> Room {
        let (slots, tokens) = match self {
            Self::Prefill512 | Self::Decode | Self::Start => (1, 512),
            Self::Prefill2048 => (1, 2048),
            Self::Streams8 | Self::Memory => (8, STREAM_INPUT + STREAM_OUTPUT),
            Self::Streams16 => (16, STREAM_INPUT + STREAM_OUTPUT),
            Self::Gap => (GAP_STREAMS + 1, GAP_PROMPT + 512),
            // A model of 8,192 must hold it.
            Self::Cached => return Room { slots: 1, context: CACHED_PROMPT + 192 },
        };
        Room { slots, context: tokens + SLACK }
    }
}
