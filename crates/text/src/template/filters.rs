//! Filters and methods that differ from minijinja's: `tojson` as `json.dumps` prints it,
//! and those whose result may be far larger than what they are given, which are bounded
//! before they begin.

use minijinja::value::{Kwargs, Rest, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::limits;
use super::python::{self, JsonStyle};

/// Widths and counts past this are refused.
const MAX_WIDTH: usize = 10_000;

/// Puts our filters in the place of minijinja's.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.add_filter("tojson", to_json);
    environment.add_filter("string", |state: &mut State<'_, '_>, value: &Value| {
        if value.as_str().is_some() {
            return Ok(value.clone());
        }
        let mut text = limits::bounded(state);
        python::write_str(value, &mut text)?;
        limits::charge_text(state, text).map(Value::from)
    });
    environment.add_filter("join", join);
    environment.add_filter("replace", |state: &mut State<'_, '_>, args: Rest<Value>| {
        let (text, from, to): (&Value, &Value, &Value) = from_args(args.get(..3).unwrap_or(&args))?;
        let times = args.get(3).and_then(Value::as_usize);
        replace(state, &text.to_string(), &from.to_string(), &to.to_string(), times)
    });
    bounded_by_arguments(environment, "indent");
    bounded_by_arguments(environment, "batch");
    bounded_by_arguments(environment, "slice");
    environment.add_filter("format", |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
        format(state, &args.into_values(), |_, args| builtin_filter("format", args))
    });
    // It prints for people, and differently from Python's.
    environment.remove_filter("pprint");
}

/// Calls minijinja's own filter of this name, for the filters that read nothing of the
/// state but how undefined values behave, which is minijinja's default here.
fn builtin_filter(name: &str, args: &[Value]) -> Result<Value, Error> {
    thread_local! {
        static BUILTIN: Environment<'static> = Environment::new();
    }
    BUILTIN.with(|environment| environment.empty_state().apply_filter(name, args))
}

/// A filter of minijinja's whose result is as large as its number arguments say.
fn bounded_by_arguments(environment: &mut Environment<'static>, name: &'static str) {
    environment.add_filter(name, move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
        let args = args.into_values();
        let mut largest = 1;
        for argument in args.iter().skip(1) {
            if let Ok(kwargs) = Kwargs::try_from(argument.clone()) {
                for key in kwargs.args() {
                    let value: Value = kwargs.get(key)?;
                    largest = largest.max(value.as_usize().unwrap_or(0));
                }
            } else {
                largest = largest.max(argument.as_usize().unwrap_or(0));
            }
        }
        check_width(largest)?;
        let lines = match args.first() {
            Some(value) => value.as_str().map_or_else(
                || value.len().unwrap_or(0),
                |text| text.len() + text.matches('\n').count() * largest,
            ),
            None => 0,
        };
        limits::charge(state, lines.saturating_add(largest))?;
        builtin_filter(name, &args)
    });
}

fn check_width(width: usize) -> Result<(), Error> {
    if width > MAX_WIDTH {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("a width or count of {width}; at most {MAX_WIDTH} is supported"),
        ));
    }
    Ok(())
}

/// `value|tojson(ensure_ascii, indent, separators, sort_keys)`.
fn to_json(
    state: &mut State<'_, '_>,
    value: &Value,
    args: Rest<ValueOrKwargs>,
) -> Result<Value, Error> {
    let args = args.into_values();
    let (positional, kwargs): (&[Value], Kwargs) = from_args(&args)?;
    let argument = |index: usize, name: &str| match positional.get(index) {
        Some(value) => Ok(Some(value.clone())),
        None => kwargs.get::<Option<Value>>(name),
    };
    let ensure_ascii = argument(0, "ensure_ascii")?.is_some_and(|value| value.is_true());
    let indent = match argument(1, "indent")? {
        Some(value) if value.as_str().is_some() => Some(value.to_string()),
        Some(value) if !value.is_none() => {
            let width = i64::try_from(value)?.max(0) as usize;
            check_width(width)?;
            Some(" ".repeat(width))
        }
        _ => None,
    };
    let separators = argument(2, "separators")?.filter(|value| !value.is_none());
    let sort_keys = argument(3, "sort_keys")?.is_some_and(|value| value.is_true());
    kwargs.assert_all_used()?;
    let (item_separator, key_separator) = match separators {
        Some(pair) => {
            let pair: Vec<Value> = pair.try_iter()?.collect();
            match pair.as_slice() {
                [item, key] => (item.to_string(), key.to_string()),
                _ => {
                    return Err(Error::new(
                        ErrorKind::InvalidOperation,
                        "separators is not a pair",
                    ));
                }
            }
        }
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let style = JsonStyle { ensure_ascii, indent, item_separator, key_separator, sort_keys };
    let mut text = limits::bounded(state);
    python::write_json(value, &style, &mut text)?;
    limits::charge_text(state, text).map(Value::from)
}

/// `value|join(separator, attribute)`.
fn join(
    state: &mut State<'_, '_>,
    value: &Value,
    separator: Option<&Value>,
    attribute: Option<&str>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let named_separator: Option<Value> = kwargs.get("d")?;
    let named_attribute: Option<String> = kwargs.get("attribute")?;
    kwargs.assert_all_used()?;
    let separator = separator.cloned().or(named_separator).map(|value| value.to_string());
    let separator = separator.unwrap_or_default();
    let attribute = attribute.map(str::to_owned).or(named_attribute);
    join_items(state, value, &separator, attribute.as_deref())
}

fn join_items(
    state: &mut State<'_, '_>,
    items: &Value,
    separator: &str,
    attribute: Option<&str>,
) -> Result<Value, Error> {
    let mut text = limits::bounded(state);
    for (index, item) in items.try_iter()?.enumerate() {
        if index > 0 {
            text.push(separator)?;
        }
        match attribute {
            Some(attribute) => python::write_str(&item.get_attr(attribute)?, &mut text)?,
            None => python::write_str(&item, &mut text)?,
        }
    }
    limits::charge_text(state, text).map(Value::from)
}

/// Python's `text.replace(from, to, times)`.
fn replace(
    state: &mut State<'_, '_>,
    text: &str,
    from: &str,
    to: &str,
    times: Option<usize>,
) -> Result<Value, Error> {
    let found = if from.is_empty() { text.chars().count() + 1 } else { text.matches(from).count() };
    let found = found.min(times.unwrap_or(usize::MAX));
    limits::charge(state, text.len().saturating_add(found.saturating_mul(to.len())))?;
    Ok(Value::from(match times {
        Some(times) => text.replacen(from, to, times),
        None => text.replace(from, to),
    }))
}

/// Formatting with widths in the format text: `args[0]`.
fn format(
    state: &mut State<'_, '_>,
    args: &[Value],
    call: impl Fn(&mut State<'_, '_>, &[Value]) -> Result<Value, Error>,
) -> Result<Value, Error> {
    let text = args.first().map(Value::to_string).unwrap_or_default();
    let mut widest = 0;
    for digits in text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty()) {
        let width = digits.parse().unwrap_or(usize::MAX);
        check_width(width)?;
        widest = widest.max(width);
    }
    // A width may also be an argument, by `*`.
    for width in args.iter().skip(1).filter(|_| text.contains('*')).filter_map(Value::as_usize) {
        check_width(width)?;
        widest = widest.max(width);
    }
    let fields = text.matches(['%', '{']).count();
    let longest = args.iter().map(|value| value.as_str().map_or(64, str::len)).max().unwrap_or(0);
    limits::charge(state, fields.saturating_mul(widest.max(longest)))?;
    call(state, args)
}

/// Methods of Python's types, where minijinja's values have none of their own.
pub(super) fn call_method(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return unknown_method_callback(state, value, method, args);
    };
    match method {
        "replace" => {
            let (from, to, times): (&str, &str, Option<i64>) = from_args(args)?;
            let times = times.and_then(|times| usize::try_from(times).ok());
            replace(state, text, from, to, times)
        }
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            join_items(state, items, text, None)
        }
        "format" => {
            let all: Vec<Value> =
                std::iter::once(value.clone()).chain(args.iter().cloned()).collect();
            format(state, &all, |state, all| {
                unknown_method_callback(state, value, method, &all[1..])
            })
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "split" | "rsplit" if args.first().and_then(Value::as_str).is_some() => {
            let separator = args.first().and_then(Value::as_str).unwrap_or_default();
            limits::charge(state, text.matches(separator).count().saturating_mul(32))?;
            unknown_method_callback(state, value, method, args)
        }
        _ => unknown_method_callback(state, value, method, args),
    }
}
