//! What keeps a hostile template from hanging the process or eating its memory.
//!
//! minijinja counts instructions (fuel), which bounds loops. It does not bound what one
//! instruction makes: `{% set x = x ~ x %}` forty times is a terabyte. So the compiled
//! program is rewritten before it runs. Where a value may grow, where text is emitted and
//! where a loop turns, a call to one of our functions is woven in, which charges the bytes
//! to the rendering's budget and looks at the clock; where containers are built, their
//! nesting and their printed size are checked, because `[x, x]` forty times is as bad. Our
//! functions have names that no template can write, so none can call or replace them.
//!
//! The rewriting uses minijinja's `unstable_machinery`, which is why its version is pinned
//! exactly. Compiled code borrows the source, so a template is compiled for each rendering;
//! that costs about as much as rendering it.
//!
//! Compiling and rendering run on a thread of their own with a large stack, because the
//! compiler recurses along `a ~ a ~ a …` as deep as the source is long.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use minijinja::machinery::{
    CodeGenerator, Instruction, Instructions, Token, eval, make_string_output, parse, tokenize,
};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Object, ObjectRepr, Tuple, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};

use super::python::{self, Bounded};

/// Instructions of one rendering.
pub(super) const FUEL: u64 = 20_000_000;

/// Macros, loops and blocks inside one another.
pub(super) const RECURSION: usize = 200;

/// Time of one rendering.
const TIME: Duration = Duration::from_secs(3);

/// Bytes that a rendering may make besides what its input allows.
const BASE_BYTES: usize = 64 << 20;

/// Bytes that a rendering may make for each byte of its input.
const BYTES_PER_INPUT_BYTE: usize = 16;

/// Stack of the thread that compiles and renders. It is mapped, not used, until needed.
const STACK_BYTES: usize = 256 << 20;

/// Nested containers in a value that a template builds.
const MAX_DEPTH: usize = 64;

/// Values in a value that a template builds, counted as often as they are printed.
const MAX_NODES: usize = 1_000_000;

/// Items of a list that a template makes out of others.
const MAX_ITEMS: usize = 1_000_000;

/// About what one item of a list costs.
const ITEM_BYTES: usize = 32;

/// Tokens in one tag. The compiler's time grows with the square of this.
const MAX_TAG_TOKENS: usize = 4_000;

/// What the compiler may make of the literals in a template.
const MAX_CONSTANT_BYTES: usize = 16 << 20;

/// Raw text at least this long is charged; shorter text is bounded by the fuel.
const CHARGED_RAW_BYTES: usize = 16;

// Names that cannot be written in a template.
const TICK: &str = "\0tick";
const CHARGE: &str = "\0charge";
const CONCAT: &str = "\0concat";
const ADD: &str = "\0add";
const MULTIPLY: &str = "\0multiply";
const MADE: &str = "\0made";
const BUILT: &str = "\0built";
const STORED: &str = "\0stored";
const ITERATED: &str = "\0iterated";
const GENERATOR: &str = "\0generator";
const INPUT_BYTES: &str = "\0input_bytes";

/// What is left of a rendering's bounds.
struct Budget {
    bytes: usize,
    deadline: Instant,
}

fn budget<'a>(state: &'a mut State<'_, '_>) -> &'a mut Budget {
    if state.get_extension::<Budget>().is_none() {
        let input = state.lookup(INPUT_BYTES).and_then(|value| value.as_usize()).unwrap_or(0);
        let bytes = BASE_BYTES.saturating_add(input.saturating_mul(BYTES_PER_INPUT_BYTE));
        state.get_or_insert_extension(Budget { bytes, deadline: Instant::now() + TIME });
    }
    // Inserted above if it was not there; the closure is never called.
    state.get_or_insert_extension_with(|| Budget { bytes: 0, deadline: Instant::now() })
}

/// Looks at the clock.
///
/// # Errors
/// When the rendering's time is over.
pub(super) fn tick(state: &mut State<'_, '_>) -> Result<(), Error> {
    if Instant::now() > budget(state).deadline {
        return Err(Error::new(ErrorKind::OutOfFuel, "rendering takes too long"));
    }
    Ok(())
}

/// Takes `bytes` from the budget, and looks at the clock.
///
/// # Errors
/// When the budget or the time is used up.
pub(super) fn charge(state: &mut State<'_, '_>, bytes: usize) -> Result<(), Error> {
    tick(state)?;
    let budget = budget(state);
    match budget.bytes.checked_sub(bytes) {
        Some(left) => budget.bytes = left,
        None => return Err(Error::new(ErrorKind::OutOfFuel, "rendering takes too much memory")),
    }
    Ok(())
}

/// A text that may take what is left of the budget; [`charge_text`] afterwards.
pub(super) fn bounded(state: &mut State<'_, '_>) -> Bounded {
    Bounded::new(budget(state).bytes)
}

/// Charges a finished text.
///
/// # Errors
/// As [`charge`].
pub(super) fn charge_text(state: &mut State<'_, '_>, text: Bounded) -> Result<String, Error> {
    let text = text.into_text();
    charge(state, text.len())?;
    Ok(text)
}

/// Adds the functions that the rewritten program calls, and minijinja's own limits.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION);
    environment.add_function(TICK, |state: &mut State<'_, '_>| tick(state));
    environment
        .add_function(CHARGE, |state: &mut State<'_, '_>, bytes: usize| charge(state, bytes));
    environment.add_function(CONCAT, concat);
    environment.add_function(ADD, add);
    environment.add_function(MULTIPLY, check_multiply);
    environment.add_function(MADE, made);
    environment.add_function(BUILT, |state: &mut State<'_, '_>, value: Value| {
        check_nesting(&value)?;
        made(state, value)
    });
    environment.add_function(STORED, check_stored);
    environment.add_function(ITERATED, iterated);
    environment.add_function(GENERATOR, generator);
}

/// `a ~ b`.
fn concat(state: &mut State<'_, '_>, left: &Value, right: &Value) -> Result<Value, Error> {
    let mut text = bounded(state);
    python::write_str(left, &mut text)?;
    python::write_str(right, &mut text)?;
    charge_text(state, text).map(Value::from)
}

/// `a + b`. Text that a template marked `safe` escapes what is added to it, as Python's
/// `Markup` does, even where nothing else is escaped.
fn add(state: &mut State<'_, '_>, left: Value, right: Value) -> Result<Value, Error> {
    if let (Some(left_text), Some(right_text)) = (left.as_str(), right.as_str()) {
        charge(state, left_text.len() + right_text.len())?;
        if !left.is_safe() && !right.is_safe() {
            return Ok(Value::from([left_text, right_text].concat()));
        }
        let mut text = bounded(state);
        for (value, part) in [(&left, left_text), (&right, right_text)] {
            if value.is_safe() { text.push(part)? } else { python::write_escaped(part, &mut text)? }
        }
        return charge_text(state, text).map(Value::from_safe_string);
    }
    if let (Some(left), Some(right)) = (items(&left), items(&right)) {
        check_items(state, left.saturating_add(right))?;
    }
    // Everything else as minijinja adds it.
    thread_local! {
        static PLAIN: Environment<'static> = Environment::new();
    }
    PLAIN.with(|environment| {
        environment.compile_expression("a + b")?.eval(minijinja::context! { a => left, b => right })
    })
}

/// Checks `a * b`, which repeats texts and lists; gives both back, the right
/// one first, for the multiplication itself.
fn check_multiply(state: &mut State<'_, '_>, left: Value, right: Value) -> Result<Value, Error> {
    for (value, times) in [(&left, &right), (&right, &left)] {
        let Some(times) = times.as_usize() else {
            continue;
        };
        if let Some(text) = value.as_str() {
            charge(state, text.len().saturating_mul(times))?;
        } else if let Some(items) = items(value) {
            check_items(state, items.saturating_mul(times))?;
        }
    }
    Ok(Value::from(Tuple::from([right, left])))
}

/// How many items a list has.
fn items(value: &Value) -> Option<usize> {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable).then(|| value.len().unwrap_or(0))
}

fn check_items(state: &mut State<'_, '_>, items: usize) -> Result<(), Error> {
    if items > MAX_ITEMS {
        return Err(Error::new(ErrorKind::OutOfFuel, "a list gets too long"));
    }
    charge(state, items * ITEM_BYTES)
}

/// Charges what a filter, method or function has made, and gives it back.
fn made(state: &mut State<'_, '_>, value: Value) -> Result<Value, Error> {
    let bytes = match value.as_str() {
        Some(text) => text.len(),
        None if value.as_object().is_some() => value.len().unwrap_or(1).saturating_mul(ITEM_BYTES),
        None => 0,
    };
    charge(state, bytes)?;
    Ok(value)
}

/// Refuses values that are nested too deep, or too large when printed.
fn check_nesting(value: &Value) -> Result<(), Error> {
    fn walk(value: &Value, depth: usize, nodes: &mut usize) -> Result<(), Error> {
        *nodes += 1;
        if depth > MAX_DEPTH || *nodes > MAX_NODES {
            return Err(Error::new(
                ErrorKind::OutOfFuel,
                "a value is nested too deep or too large",
            ));
        }
        match value.kind() {
            ValueKind::Seq => {
                for item in value.try_iter()? {
                    walk(&item, depth + 1, nodes)?;
                }
            }
            ValueKind::Map => {
                for key in value.try_iter()? {
                    walk(&value.get_item(&key)?, depth + 1, nodes)?;
                }
            }
            // A lazy list is not run here, but counted, so that it cannot hide nesting.
            ValueKind::Iterable => *nodes = nodes.saturating_add(value.len().unwrap_or(0)),
            _ => {}
        }
        Ok(())
    }
    walk(value, 0, &mut 0)
}

/// Refuses to store a namespace in a namespace: the only way to a value inside itself.
fn check_stored(value: Value) -> Result<Value, Error> {
    fn has_namespace(value: &Value, depth: usize) -> bool {
        let Some(object) = value.as_object() else {
            return false;
        };
        if depth > MAX_DEPTH || object.type_name().ends_with("Namespace") {
            return true;
        }
        match value.kind() {
            ValueKind::Seq => value
                .try_iter()
                .is_ok_and(|mut items| items.any(|item| has_namespace(&item, depth + 1))),
            ValueKind::Map => value.try_iter().is_ok_and(|mut keys| {
                keys.any(|key| value.get_item(&key).is_ok_and(|v| has_namespace(&v, depth + 1)))
            }),
            _ => false,
        }
    }
    if has_namespace(&value, 0) {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "a namespace cannot be stored in a namespace",
        ));
    }
    Ok(value)
}

/// Prepares a value to be looped over. `none` is refused, as Python does; minijinja would
/// loop zero times. What has no length becomes a list, so that `loop.last` is known.
fn iterated(state: &mut State<'_, '_>, value: Value) -> Result<Value, Error> {
    if value.is_none() {
        return Err(Error::new(ErrorKind::InvalidOperation, "none is not iterable"));
    }
    if value.is_undefined() || (value.as_str().is_none() && value.len().is_some()) {
        return Ok(value);
    }
    if let Some(text) = value.as_str() {
        charge(state, text.len().saturating_mul(ITEM_BYTES))?;
    }
    Ok(Value::from(value.try_iter()?.collect::<Vec<_>>()))
}

/// Makes the result of a lazy filter what it is in Python: a generator.
fn generator(state: &mut State<'_, '_>, value: Value) -> Result<Value, Error> {
    check_nesting(&value)?;
    let value = made(state, value)?;
    let items: Vec<Value> = value.try_iter()?.collect();
    Ok(Value::from_object(Generator(Mutex::new(items.into_iter()))))
}

/// What `map`, `select` and the like give: items that can be gone through once, without a
/// length, always true, and nothing for JSON.
#[derive(Debug)]
pub(super) struct Generator(Mutex<std::vec::IntoIter<Value>>);

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let this = Arc::clone(self);
        // A poisoned lock only means that another rendering panicked half-way.
        let next = move || this.0.lock().unwrap_or_else(PoisonError::into_inner).next();
        Enumerator::Iter(Box::new(std::iter::from_fn(next)))
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }
}

/// A template's program: the main part, and its blocks by name.
struct Program<'source> {
    main: Instructions<'source>,
    blocks: BTreeMap<&'source str, Instructions<'source>>,
}

/// Checks that `source` compiles.
///
/// # Errors
/// The syntax error, or that a tag or constant in it is too large.
pub(super) fn compile(source: &str) -> Result<(), Error> {
    check_constants(source)?;
    on_large_stack(|| program(source).map(|_| ()))
}

/// Renders `source` with the variables of `context`. `input_bytes`: the size of the
/// messages and whatever else the request brought.
///
/// # Errors
/// Whatever fails in it, and [`ErrorKind::OutOfFuel`] when it passes a limit.
pub(super) fn render(
    environment: &Environment<'static>,
    source: &str,
    context: Value,
    input_bytes: usize,
) -> Result<String, Error> {
    on_large_stack(|| {
        let program = program(source)?;
        let context = minijinja::context! {
            ..minijinja::context! {},
            ..Value::from_pairs([(INPUT_BYTES, Value::from(input_bytes))]),
            ..context
        };
        let mut text = String::new();
        {
            let mut output = make_string_output(&mut text);
            eval(
                environment,
                &program.main,
                context,
                &program.blocks,
                &mut output,
                AutoEscape::None,
            )?;
        }
        Ok(text)
    })
}

/// Refuses endless tags, and multiplications of literals that could make a large constant: the compiler
/// computes them, before anything is bounded. What a tag could make is taken to be the
/// product of all its numbers, as often as the longest literal text is long.
fn check_constants(source: &str) -> Result<(), Error> {
    let (mut product, mut multiplies, mut longest) = (1_usize, false, 1);
    let (mut total, mut tokens) = (0_usize, 0_usize);
    for token in tokenize(source, false, syntax()?) {
        tokens += 1;
        if tokens > MAX_TAG_TOKENS {
            return Err(Error::new(ErrorKind::SyntaxError, "a tag is too long"));
        }
        match token?.0 {
            Token::TemplateData(_) => tokens = 0,
            Token::VariableStart | Token::BlockStart => {
                (product, multiplies, longest, tokens) = (1, false, 1, 0);
            }
            Token::Mul => multiplies = true,
            Token::Int(number) => {
                let number = usize::try_from(number).unwrap_or(usize::MAX);
                product = product.saturating_mul(number.max(1));
            }
            Token::Int128(_) => product = usize::MAX,
            Token::Str(text) => longest = longest.max(text.len()),
            Token::String(text) => longest = longest.max(text.len()),
            Token::VariableEnd | Token::BlockEnd if multiplies => {
                total = total.saturating_add(product.saturating_mul(longest));
            }
            _ => {}
        }
    }
    if total > MAX_CONSTANT_BYTES {
        return Err(Error::new(ErrorKind::SyntaxError, "a constant is too large"));
    }
    Ok(())
}

fn syntax() -> Result<SyntaxConfig, Error> {
    SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()
}

/// Runs `work` on a thread with [`STACK_BYTES`] of stack; a panic there is an error here.
fn on_large_stack<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("chat-template".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work)
            .map_err(|error| {
                Error::new(ErrorKind::InvalidOperation, "no thread to render on").with_source(error)
            })?;
        thread.join().unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::InvalidOperation, "the template engine failed on it"))
        })
    })
}

fn program(source: &str) -> Result<Program<'_>, Error> {
    let tree = parse(source, "chat_template", syntax()?)?;
    let mut generator = CodeGenerator::new("chat_template", source);
    generator.compile_stmt(&tree);
    let (main, blocks) = generator.finish();
    let blocks = blocks.into_iter().map(|(name, block)| (name, rewrite(&block))).collect();
    Ok(Program { main: rewrite(&main), blocks })
}

/// The program with our calls woven in.
fn rewrite<'source>(old: &Instructions<'source>) -> Instructions<'source> {
    let woven: Vec<Vec<Instruction<'source>>> =
        (0..).map_while(|index| old.get(index)).map(weave).collect();
    // Where each old instruction now begins; one more for jumps to the end. [instructions + 1]
    let mut starts = Vec::with_capacity(woven.len() + 1);
    starts.push(0_u32);
    for instructions in &woven {
        starts.push(starts[starts.len() - 1] + instructions.len() as u32);
    }
    let mut new = Instructions::new(old.name(), old.source());
    for (index, instructions) in woven.into_iter().enumerate() {
        let line = old.get_line(index as u32).unwrap_or(0) as u16;
        for mut instruction in instructions {
            if let Some(target) = target(&mut instruction) {
                *target = starts[*target as usize];
            }
            new.add_with_line(instruction, line);
        }
    }
    new
}

/// Where an instruction jumps to.
fn target<'a>(instruction: &'a mut Instruction<'_>) -> Option<&'a mut u32> {
    match instruction {
        Instruction::Iterate(target)
        | Instruction::Jump(target)
        | Instruction::JumpIfFalse(target)
        | Instruction::JumpIfFalseOrPop(target)
        | Instruction::JumpIfTrueOrPop(target)
        | Instruction::BuildMacro(_, target, _) => Some(target),
        _ => None,
    }
}

/// What takes the place of one instruction. A jump to it arrives at the first.
fn weave<'source>(old: &Instruction<'source>) -> Vec<Instruction<'source>> {
    use Instruction as I;
    let call = |name, arguments| I::CallFunction(name, Some(arguments));
    let old = old.clone();
    match old {
        I::StringConcat => vec![call(CONCAT, 2)],
        I::Add => vec![call(ADD, 2)],
        I::Mul => vec![call(MULTIPLY, 2), I::UnpackList(2), old],
        I::EmitRaw(text) if text.len() >= CHARGED_RAW_BYTES => {
            vec![I::LoadConst(Value::from(text.len())), call(CHARGE, 1), I::DiscardTop, old]
        }
        I::BuildList(_) | I::BuildMap(_) | I::BuildTuple(_) => vec![old, call(BUILT, 1)],
        // The compiler makes constants of lists of constants.
        I::LoadConst(ref value) if value.as_object().is_some() && !value.is_kwargs() => {
            vec![old, call(BUILT, 1)]
        }
        I::PushLoop(_) => vec![call(ITERATED, 1), old],
        I::SetAttr(_) => vec![I::Swap, call(STORED, 1), I::Swap, old],
        I::ApplyFilter("batch" | "slice" | "groupby" | "zip" | "items" | "dictsort", ..)
        | I::CallFunction("dict" | "namespace", _) => {
            vec![call(TICK, 0), I::DiscardTop, old, call(BUILT, 1)]
        }
        I::ApplyFilter("map" | "select" | "reject" | "selectattr" | "rejectattr", ..) => {
            vec![call(TICK, 0), I::DiscardTop, old, call(GENERATOR, 1)]
        }
        I::ApplyFilter(..) | I::CallMethod(..) | I::CallFunction(..) | I::CallObject(_) => {
            vec![call(TICK, 0), I::DiscardTop, old, call(MADE, 1)]
        }
        I::Iterate(_)
        | I::In
        | I::Eq
        | I::Ne
        | I::Lt
        | I::Lte
        | I::Gt
        | I::Gte
        | I::CompareAndPreserve(_)
        | I::Slice
        | I::PerformTest(..)
        | I::UnpackLists(_)
        | I::FastRecurse => vec![call(TICK, 0), I::DiscardTop, old],
        _ => vec![old],
    }
}
