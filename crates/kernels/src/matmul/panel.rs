//! Packed weights: panels of 16 output features, and their unpacking to vectors.
//!
//! In a panel, the 16 features' values for one k lie side by side. Plain formats are `[k][16]`, but for
//! bfloat16: words of two k, `[k / 2][16]`, which is how AMX's tiles want them. Codes are words, so that one load serves eight k of a feature, or four: 4-bit ones `[k / 8][16]`,
//! lowest bits first; 8-bit ones (also those of 5 and 6 bits, which unpack too slowly otherwise)
//! `[k / 8][2][16]`, the even k in the first word, the odd ones in the second, which is how the
//! nibbles of a 4-bit word come apart, too: so both meet the same quantised rows. Scales and minima
//! are kept as the file has them (f16, times a small integer in the K formats): exact, and no bigger
//! than there.

use std::{marker::PhantomData, ops::Range};

use crate::{
    buffer::{Buffer, Plain},
    isa::{Isa, Kernel, LANES, Simd},
};

/// One value for each feature of a panel.
type Lanes<T> = [T; LANES];

/// The packed matrix, by what unpacks it.
pub(super) enum Weights {
    F32(PlainPanels<F32>),
    F16(PlainPanels<F16>),
    Bf16(PairPanels),
    Int4(CodePanels<Int4>),
    Int8(CodePanels<Int8>),
    Fp4(CodePanels<Fp4>),
}

impl Weights {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::F32(panels) => panels.data.bytes(),
            Self::F16(panels) => panels.data.bytes(),
            Self::Bf16(panels) => panels.words.bytes(),
            Self::Int4(panels) => panels.bytes(),
            Self::Int8(panels) => panels.bytes(),
            Self::Fp4(panels) => panels.bytes(),
        }
    }
}

/// A packed matrix whose panels unpack in one way.
pub(super) trait Panels: Sync {
    type Panel<'a>: Panel
    where
        Self: 'a;
    fn panel(&self, index: usize) -> Self::Panel<'_>;
}

/// One panel. Step `i` unpacks the weights of `STEP` consecutive k from `i * STEP`, one vector of 16
/// features at a time; all steps of a group share its parameters.
pub(super) trait Panel: Copy {
    /// k per raw load.
    const STEP: usize;
    /// Scale and minimum.
    type Params<S: Simd>: Copy;
    /// What one load brings.
    type Raw<S: Simd>: Copy;

    /// k per group, a multiple of `STEP`.
    fn group_len(&self) -> usize;
    /// The parameters of group `index`.
    fn params<S: Simd>(&self, s: S, index: usize) -> Self::Params<S>;
    /// The load of step `index`.
    fn raw<S: Simd>(&self, s: S, index: usize) -> Self::Raw<S>;
    /// Asks for what is loaded some steps after `index`.
    fn prefetch<S: Simd>(&self, s: S, index: usize);
    /// The next weights of a step; called `STEP` times per load.
    fn next<S: Simd>(s: S, params: &Self::Params<S>, raw: &mut Self::Raw<S>) -> S::V;
}

/// How plain numbers are stored.
pub(super) trait Number: Sync + 'static {
    type Stored: Plain;
    fn load<S: Simd>(s: S, from: &Lanes<Self::Stored>) -> S::V;
}

pub(super) struct F32;
impl Number for F32 {
    type Stored = f32;
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &Lanes<f32>) -> S::V {
        s.load(from)
    }
}

pub(super) struct F16;
impl Number for F16 {
    type Stored = u16;
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &Lanes<u16>) -> S::V {
        s.load_f16(from)
    }
}

/// Plain numbers.
pub(super) struct PlainPanels<N: Number> {
    pub(super) data: Buffer<Lanes<N::Stored>>, // [panels][cols]
    pub(super) cols: usize,
}

pub(super) struct PlainPanel<'a, N: Number> {
    data: &'a [Lanes<N::Stored>], // [cols]
}

impl<N: Number> Clone for PlainPanel<'_, N> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}
impl<N: Number> Copy for PlainPanel<'_, N> {}

impl<N: Number> Panels for PlainPanels<N> {
    type Panel<'a> = PlainPanel<'a, N>;
    #[inline]
    fn panel(&self, index: usize) -> PlainPanel<'_, N> {
        PlainPanel { data: &self.data[index * self.cols..][..self.cols] }
    }
}

impl<N: Number> Panel for PlainPanel<'_, N> {
    const STEP: usize = 1;
    type Params<S: Simd> = ();
    type Raw<S: Simd> = S::V;

    #[inline(always)]
    fn group_len(&self) -> usize {
        self.data.len()
    }
    #[inline(always)]
    fn params<S: Simd>(&self, _: S, _: usize) {}
    #[inline(always)]
    fn raw<S: Simd>(&self, s: S, index: usize) -> S::V {
        N::load(s, &self.data[index])
    }
    #[inline(always)]
    fn prefetch<S: Simd>(&self, s: S, index: usize) {
        s.prefetch(self.data.as_ptr().wrapping_add(PREFETCH_LINES + index));
    }
    #[inline(always)]
    fn next<S: Simd>(_: S, (): &(), raw: &mut S::V) -> S::V {
        *raw
    }
}

/// Pairs of bfloat16.
pub(super) struct PairPanels {
    pub(super) words: Buffer<Lanes<u32>>, // [panels][cols / 2]: the even k in the lower half
    pub(super) cols: usize,
}

#[derive(Clone, Copy)]
pub(super) struct PairPanel<'a> {
    pub(super) words: &'a [Lanes<u32>], // [cols / 2]
}

impl Panels for PairPanels {
    type Panel<'a> = PairPanel<'a>;
    #[inline]
    fn panel(&self, index: usize) -> PairPanel<'_> {
        let words = self.cols / 2;
        PairPanel { words: &self.words[index * words..][..words] }
    }
}

impl Panel for PairPanel<'_> {
    const STEP: usize = 2;
    type Params<S: Simd> = ();
    type Raw<S: Simd> = S::W;

    #[inline(always)]
    fn group_len(&self) -> usize {
        2 * self.words.len()
    }
    #[inline(always)]
    fn params<S: Simd>(&self, _: S, _: usize) {}
    #[inline(always)]
    fn raw<S: Simd>(&self, s: S, index: usize) -> S::W {
        s.load_words(&self.words[index])
    }
    #[inline(always)]
    fn prefetch<S: Simd>(&self, s: S, index: usize) {
        s.prefetch(self.words.as_ptr().wrapping_add(PREFETCH_LINES + index));
    }
    #[inline(always)]
    fn next<S: Simd>(s: S, (): &(), raw: &mut S::W) -> S::V {
        s.next_bf16(raw)
    }
}

/// A number per group: `unit[group / 2^shift] · step[group]`, or `unit[group / 2^shift]` alone.
pub(super) struct Factors {
    pub(super) units: Buffer<Lanes<u16>>, // f16 bits, [panels][groups >> shift]
    pub(super) steps: Option<Buffer<Lanes<i8>>>, // [panels][groups]
    pub(super) shift: u32,
}

/// What a weight is besides its code times the scale.
pub(super) enum Minima {
    /// Nothing.
    None,
    /// The scale times this code, which stands for 0, less (Q4_0's is 8).
    Zero(i8),
    /// The same with a code for each group.
    Zeros(Zeros),
    /// A minimum for each group, more.
    Each(Factors),
}

/// A code per group that stands for 0.
pub(super) struct Zeros {
    pub(super) codes: Buffer<Lanes<i8>>, // [panels][groups >> shift]
    pub(super) shift: u32,
}

impl Factors {
    fn bytes(&self) -> usize {
        self.units.bytes() + self.steps.as_ref().map_or(0, Buffer::bytes)
    }

    #[inline]
    fn view(&self, panel: usize, groups: usize) -> FactorsView<'_> {
        let units = groups >> self.shift;
        FactorsView {
            units: &self.units[panel * units..][..units],
            steps: self.steps.as_ref().map(|steps| &steps[panel * groups..][..groups]),
            shift: self.shift,
        }
    }
}

#[derive(Clone, Copy)]
struct FactorsView<'a> {
    units: &'a [Lanes<u16>],
    steps: Option<&'a [Lanes<i8>]>,
    shift: u32,
}

impl FactorsView<'_> {
    #[inline(always)]
    fn prefetch<S: Simd>(&self, s: S, group: usize) {
        s.prefetch_far(&self.units[group >> self.shift]);
        if let Some(steps) = self.steps {
            s.prefetch_far(&steps[group]);
        }
    }
    #[inline(always)]
    fn get<S: Simd>(&self, s: S, group: usize) -> S::V {
        match self.steps {
            None => s.load_f16(&self.units[group >> self.shift]),
            Some(steps) => {
                s.mul(s.load_f16(&self.units[group >> self.shift]), s.load_i8(&steps[group]))
            }
        }
    }
}

#[derive(Clone, Copy)]
enum MinimaView<'a> {
    None,
    Zero(i8),
    /// `[groups >> shift]`, and the shift.
    Zeros(&'a [Lanes<i8>], u32),
    Each(FactorsView<'a>),
}

/// How integer codes are stored, eight k at a time.
pub(super) trait Code: Sync + 'static {
    /// Words for eight k of a feature.
    const WORDS: usize;
    type Raw<S: Simd>: Copy;
    /// `from`: `[WORDS]`.
    fn raw<S: Simd>(s: S, from: &[Lanes<u32>]) -> Self::Raw<S>;
    /// The next k.
    fn next<S: Simd>(s: S, raw: &mut Self::Raw<S>) -> S::V;
    /// Whether the codes are from 0 to 15.
    const SMALL: bool;
    /// Words as words of bytes, `[cols / 4]`, each code less `zero` (0, unless codes are `SMALL`); in
    /// `space`, if they are not that already.
    fn bytes<'a>(
        isa: Isa,
        words: &'a [Lanes<u32>],
        zero: u8,
        space: &'a mut Buffer<Lanes<u32>>,
    ) -> &'a [Lanes<u32>];
    /// Σ code · x of a group of 16 or 32 k, of the panel's features and `M` rows. `codes`: the
    /// group's words; `x`: the rows' codes of 32 k, a word for four, of which the group begins with
    /// word `first`, and their sums by halves.
    fn dot<S: Simd, const M: usize>(
        s: S,
        codes: &[Lanes<u32>],
        x: &[[u32; 8]; M],
        sums: &[[i32; 2]; M],
        first: usize,
    ) -> [S::V; M];
}

/// Words of nibbles as words of bytes, less `zero`: of each eight k, the even ones, then the odd ones.
struct SplitNibbles<'a> {
    words: &'a [Lanes<u32>], // [cols / 8]
    zero: u8,
    bytes: &'a mut [[Lanes<u32>; 2]], // [cols / 8]
}

impl Kernel for SplitNibbles<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const HIGHEST: u32 = 0x8080_8080;
        let zeros = u32::from_le_bytes([self.zero; 4]);
        for (words, bytes) in self.words.iter().zip(self.bytes) {
            s.split_nibbles(words, bytes);
            if zeros != 0 {
                for word in bytes.as_flattened_mut() {
                    // The highest bit of a byte lends to the others.
                    *word = ((*word | HIGHEST) - zeros) ^ HIGHEST;
                }
            }
        }
    }
}

/// How far ahead of the codes that are multiplied memory is asked for.
const PREFETCH_LINES: usize = 32;

/// k of a step of codes.
pub(super) const CODE_STEP: usize = 8;

/// The same words with their number in the type.
#[inline(always)]
fn sized<const W: usize>(words: &[Lanes<u32>]) -> &[Lanes<u32>; W] {
    &words.as_chunks::<W>().0[0]
}

pub(super) struct Int4;
impl Code for Int4 {
    const WORDS: usize = 1;
    const SMALL: bool = true;
    type Raw<S: Simd> = S::W;
    #[inline(always)]
    fn raw<S: Simd>(s: S, from: &[Lanes<u32>]) -> S::W {
        s.load_words(&from[0])
    }
    #[inline(always)]
    fn next<S: Simd>(s: S, raw: &mut S::W) -> S::V {
        s.next_nibble(raw)
    }
    fn bytes<'a>(
        isa: Isa,
        words: &'a [Lanes<u32>],
        zero: u8,
        space: &'a mut Buffer<Lanes<u32>>,
    ) -> &'a [Lanes<u32>] {
        space.reserve(2 * words.len());
        let bytes = &mut space[..2 * words.len()];
        isa.dispatch(SplitNibbles { words, zero, bytes: bytes.as_chunks_mut().0 });
        bytes
    }
    #[inline(always)]
    fn dot<S: Simd, const M: usize>(
        s: S,
        codes: &[Lanes<u32>],
        x: &[[u32; 8]; M],
        _: &[[i32; 2]; M],
        _: usize,
    ) -> [S::V; M] {
        s.dot_nibbles(sized(codes), x)
    }
}

/// Words of E2M1 as words of bytes, in the order of [`SplitNibbles`].
struct SplitFp4<'a> {
    words: &'a [[Lanes<u32>; 4]],     // [cols / 32]
    bytes: &'a mut [[Lanes<u32>; 8]], // [cols / 32]
}

impl Kernel for SplitFp4<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (words, bytes) in self.words.iter().zip(self.bytes) {
            *bytes = s.split_fp4(words);
        }
    }
}

/// 4-bit floats (E2M1), as signed whole numbers: twice what they are.
pub(super) struct Fp4;
impl Code for Fp4 {
    const WORDS: usize = 1;
    const SMALL: bool = false;
    type Raw<S: Simd> = S::W;
    #[inline(always)]
    fn raw<S: Simd>(s: S, from: &[Lanes<u32>]) -> S::W {
        s.load_words(&from[0])
    }
    #[inline(always)]
    fn next<S: Simd>(s: S, raw: &mut S::W) -> S::V {
        s.next_fp4(raw)
    }
    fn bytes<'a>(
        isa: Isa,
        words: &'a [Lanes<u32>],
        _: u8,
        space: &'a mut Buffer<Lanes<u32>>,
    ) -> &'a [Lanes<u32>] {
        space.reserve(2 * words.len());
        let bytes = &mut space[..2 * words.len()];
        let (words, chunks) = (words.as_chunks().0, bytes.as_chunks_mut().0);
        isa.dispatch(SplitFp4 { words, bytes: chunks });
        bytes
    }
    #[inline(always)]
    fn dot<S: Simd, const M: usize>(
        s: S,
        codes: &[Lanes<u32>],
        x: &[[u32; 8]; M],
        sums: &[[i32; 2]; M],
        _: usize,
    ) -> [S::V; M] {
        s.dot_bytes::<M, 8>(&s.split_fp4(sized(codes)), x, sums, 0)
    }
}

pub(super) struct Int8;
impl Code for Int8 {
    const WORDS: usize = 2;
    const SMALL: bool = false;
    type Raw<S: Simd> = [S::W; 2];
    #[inline(always)]
    fn raw<S: Simd>(s: S, from: &[Lanes<u32>]) -> [S::W; 2] {
        [s.load_words(&from[0]), s.load_words(&from[1])]
    }
    #[inline(always)]
    fn next<S: Simd>(s: S, raw: &mut [S::W; 2]) -> S::V {
        let value = s.next_byte(&mut raw[0]);
        raw.swap(0, 1);
        value
    }
    fn bytes<'a>(
        _: Isa,
        words: &'a [Lanes<u32>],
        _: u8,
        _: &'a mut Buffer<Lanes<u32>>,
    ) -> &'a [Lanes<u32>] {
        words
    }
    #[inline(always)]
    fn dot<S: Simd, const M: usize>(
        s: S,
        codes: &[Lanes<u32>],
        x: &[[u32; 8]; M],
        sums: &[[i32; 2]; M],
        first: usize,
    ) -> [S::V; M] {
        // The groups of Q6_K have 16 k, those of all others 32.
        match codes.len() {
            4 => s.dot_bytes::<M, 4>(sized(codes), x, sums, first),
            _ => s.dot_bytes::<M, 8>(sized(codes), x, sums, 0),
        }
    }
}

/// Integer codes with a scale and a minimum per group.
pub(super) struct CodePanels<C: Code> {
    pub(super) codes: Buffer<Lanes<u32>>, // [panels][cols / 8][WORDS]
    pub(super) scales: Factors,
    pub(super) minima: Minima,
    pub(super) cols: usize,
    pub(super) group: usize,
    pub(super) code: PhantomData<C>,
}

impl<C: Code> CodePanels<C> {
    /// The words of some panels' codes, one panel's after the other's.
    pub(super) fn words(&self, panels: Range<usize>) -> &[Lanes<u32>] {
        let words = self.cols / CODE_STEP * C::WORDS;
        &self.codes[panels.start * words..panels.end * words]
    }

    /// The code that stands for 0 in all groups, where [`Code::bytes`] can take it off; or 0.
    pub(super) fn zero(&self) -> u8 {
        match self.minima {
            Minima::Zero(code @ 0..) if C::SMALL => code.cast_unsigned(),
            _ => 0,
        }
    }

    fn bytes(&self) -> usize {
        let minima = match &self.minima {
            Minima::Each(factors) => factors.bytes(),
            Minima::Zeros(zeros) => zeros.codes.bytes(),
            Minima::None | Minima::Zero(_) => 0,
        };
        self.codes.bytes() + self.scales.bytes() + minima
    }
}

pub(super) struct CodePanel<'a, C: Code> {
    codes: &'a [Lanes<u32>], // [cols / 8][WORDS]
    scales: FactorsView<'a>,
    minima: MinimaView<'a>,
    group: usize,
    code: PhantomData<C>,
}

impl<C: Code> Clone for CodePanel<'_, C> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}
impl<C: Code> Copy for CodePanel<'_, C> {}

impl<C: Code> Panels for CodePanels<C> {
    type Panel<'a> = CodePanel<'a, C>;
    #[inline]
    fn panel(&self, index: usize) -> CodePanel<'_, C> {
        let groups = self.cols / self.group;
        let words = self.cols / CODE_STEP * C::WORDS;
        CodePanel {
            codes: &self.codes[index * words..][..words],
            scales: self.scales.view(index, groups),
            minima: match &self.minima {
                Minima::None => MinimaView::None,
                Minima::Zero(code) => MinimaView::Zero(*code),
                Minima::Each(factors) => MinimaView::Each(factors.view(index, groups)),
                Minima::Zeros(Zeros { codes, shift }) => {
                    let zeros = groups >> shift;
                    MinimaView::Zeros(&codes[index * zeros..][..zeros], *shift)
                }
            },
            group: self.group,
            code: PhantomData,
        }
    }
}

impl<'a, C: Code> CodePanel<'a, C> {
    /// Whether some code, which is not 0, stands for 0: then there are no minima.
    #[inline(always)]
    pub(super) fn has_zeros(&self) -> bool {
        matches!(self.minima, MinimaView::Zero(_) | MinimaView::Zeros(..))
    }

    /// Whether there are minima.
    #[inline(always)]
    pub(super) fn has_minima(&self) -> bool {
        matches!(self.minima, MinimaView::Each(_))
    }

    /// The scales of group `index`.
    #[inline(always)]
    pub(super) fn scale<S: Simd>(&self, s: S, index: usize) -> S::V {
        self.scales.get(s, index)
    }

    /// The codes of group `index` that stand for 0, negative: so much is added to each code.
    #[inline(always)]
    pub(super) fn offset<S: Simd>(&self, s: S, index: usize) -> S::V {
        match &self.minima {
            MinimaView::None | MinimaView::Each(_) => s.splat(0.0),
            MinimaView::Zero(code) => s.splat(-f32::from(*code)),
            MinimaView::Zeros(codes, shift) => {
                s.sub(s.splat(0.0), s.load_i8(&codes[index >> shift]))
            }
        }
    }

    /// The minima of group `index`.
    #[inline(always)]
    pub(super) fn min<S: Simd>(&self, s: S, index: usize) -> S::V {
        match &self.minima {
            MinimaView::Each(factors) => factors.get(s, index),
            _ => s.splat(0.0),
        }
    }

    /// The codes as bytes, `[cols / 4][16]`: see [`Code::bytes`].
    pub(super) fn bytes(self, isa: Isa, space: &'a mut Buffer<Lanes<u32>>) -> &'a [Lanes<u32>] {
        C::bytes(isa, self.codes, 0, space)
    }

    /// [`Code::dot`] of group `index`; `x`: the rows' codes of the 32 k that it is of, and their sums.
    #[inline(always)]
    pub(super) fn dot<S: Simd, const M: usize>(
        &self,
        s: S,
        index: usize,
        x: &[[u32; 8]; M],
        sums: &[[i32; 2]; M],
    ) -> [S::V; M] {
        let words = self.group / CODE_STEP * C::WORDS;
        let codes = &self.codes[index * words..(index + 1) * words];
        for word in 0..words {
            s.prefetch(codes.as_ptr().wrapping_add(PREFETCH_LINES + word));
        }
        C::dot(s, codes, x, sums, index * self.group / 4 % 8)
    }

    /// Asks for the scale and the minimum of group `index`.
    #[inline(always)]
    pub(super) fn prefetch_params<S: Simd>(&self, s: S, index: usize) {
        self.scales.prefetch(s, index);
        match &self.minima {
            MinimaView::Each(factors) => factors.prefetch(s, index),
            MinimaView::Zeros(zeros, shift) => s.prefetch_far(&zeros[index >> shift]),
            MinimaView::None | MinimaView::Zero(_) => {}
        }
    }

    /// Asks for what the next panel has where this one has group `index`.
    #[inline(always)]
    pub(super) fn prefetch_next<S: Simd>(&self, s: S, index: usize) {
        let words = self.group / CODE_STEP * C::WORDS;
        for word in index * words..(index + 1) * words {
            s.prefetch(self.codes.as_ptr().wrapping_add(self.codes.len() + word));
        }
    }

    /// [`CodePanel::dot`] of small codes in groups of 32, of which `bytes` are [`CodePanel::bytes`].
    #[inline(always)]
    pub(super) fn dot_small_bytes<S: Simd, const M: usize>(
        &self,
        s: S,
        bytes: &[Lanes<u32>],
        index: usize,
        x: &[[u32; 8]; M],
        sums: &[[i32; 2]; M],
    ) -> [S::V; M] {
        s.dot_small_bytes(&bytes[index * self.group / 4..(index + 1) * self.group / 4], x, sums)
    }
}

impl<C: Code> Panel for CodePanel<'_, C> {
    const STEP: usize = CODE_STEP;
    type Params<S: Simd> = (S::V, S::V);
    type Raw<S: Simd> = C::Raw<S>;

    #[inline(always)]
    fn group_len(&self) -> usize {
        self.group
    }
    #[inline(always)]
    fn params<S: Simd>(&self, s: S, index: usize) -> (S::V, S::V) {
        let scale = self.scale(s, index);
        let min = match self.has_zeros() {
            true => s.mul(scale, self.offset(s, index)),
            false => self.min(s, index),
        };
        (scale, min)
    }
    #[inline(always)]
    fn raw<S: Simd>(&self, s: S, index: usize) -> C::Raw<S> {
        C::raw(s, &self.codes[index * C::WORDS..(index + 1) * C::WORDS])
    }
    #[inline(always)]
    fn prefetch<S: Simd>(&self, s: S, index: usize) {
        s.prefetch(self.codes.as_ptr().wrapping_add(PREFETCH_LINES + index * C::WORDS));
    }
    #[inline(always)]
    fn next<S: Simd>(s: S, &(scale, min): &(S::V, S::V), raw: &mut C::Raw<S>) -> S::V {
        s.mul_add(C::next(s, raw), scale, min)
    }
}
