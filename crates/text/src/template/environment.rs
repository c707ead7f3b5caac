//! The world a chat template runs in: transformers' functions, Python's methods, Jinja2's
//! habits.

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value};

use super::{Clock, filters, limits, python};

/// The exception that a template raised in its own words, as the source of an [`Error`].
#[derive(Debug)]
pub(super) struct Raised(pub(super) String);

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// An environment whose `strftime_now` reads `clock`.
pub(super) fn new(clock: Clock) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_debug(false);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_formatter(format);
    environment.set_unknown_method_callback(filters::call_method);
    environment.add_function("raise_exception", |message: &Value| -> Result<Value, Error> {
        let raised = Raised(message.to_string());
        Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(raised))
    });
    environment.add_function("strftime_now", move |format: &str| {
        jiff::fmt::strtime::format(format, &clock()).map_err(|error| {
            Error::new(ErrorKind::InvalidOperation, "strftime_now").with_source(error)
        })
    });
    // None is no sequence in Python; an undefined value is an empty one.
    environment.add_test("iterable", |value: &Value| {
        !value.is_none() && (value.is_undefined() || value.try_iter().is_ok())
    });
    // It would print the whole context.
    environment.remove_global("debug");
    filters::install(&mut environment);
    limits::install(&mut environment);
    environment
}

/// Emits a value as Python's `str` prints it, within the budget.
fn format(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let failed = |_| Error::new(ErrorKind::WriteFailure, "cannot write");
    match value.as_str() {
        Some(text) => {
            limits::charge(state, text.len())?;
            out.write_str(text).map_err(failed)
        }
        None if value.kind() == ValueKind::Undefined => Ok(()),
        None => {
            let mut text = limits::bounded(state);
            python::write_str(value, &mut text)?;
            let text = limits::charge_text(state, text)?;
            out.write_str(&text).map_err(failed)
        }
    }
}
