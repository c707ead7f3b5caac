//! Where settings come from: flags, then the environment, then `wharf.toml`, then defaults.
//!
//! The flags of `cli` are the only table. Each gets its environment variable here (`--max-num-seqs`
//! is `WHARF_MAX_NUM_SEQS`; of `chat` and `bench`, which are clients, `WHARF_BENCH_RATE`), and what
//! the file says becomes the flag's default value. So every value, wherever it stands, goes through
//! the same parser, and a flag cannot exist without its variable and its key.
//!
//! A key of the file that is no flag is an error: a misspelt setting must not be ignored.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::builder::OsStr;
use clap::error::ErrorKind;
use clap::{ArgMatches, Args, Command, CommandFactory, FromArgMatches};
use toml::{Table, Value};

use crate::cli::{Cli, EngineOptions, HubArgs};

/// Read from the working directory when no other file is named.
const DEFAULT_FILE: &str = "wharf.toml";
/// What is run when no command is given.
const DEFAULT_COMMAND: &str = "serve";
/// Flags that no file can hold.
const NOT_IN_FILE: [&str; 3] = ["config", "help", "version"];

/// The settings in force.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Typed.
    pub(crate) cli: Cli,
    /// Untyped: what `serve` hands on to its engine.
    pub(crate) matches: ArgMatches,
    /// The file that was read, if any.
    pub(crate) file: Option<PathBuf>,
}

/// Reads flags, environment and file.
///
/// # Errors
/// A [`clap::Error`] inside for what was typed (also for `--help`); anything else is about the file.
pub(crate) fn load(arguments: Vec<OsString>) -> Result<Settings> {
    let arguments = with_default_command(arguments);
    let bare = with_environment(Cli::command());
    let file = find_file(&bare, &arguments);
    let table = file.as_deref().map(read_file).transpose()?.unwrap_or_default();
    let named = file.as_deref().map(|f| f.display().to_string()).unwrap_or_default();
    check_keys(&bare, &table).with_context(|| named.clone())?;
    let command = with_file(bare.clone(), &table).with_context(|| named.clone())?;
    let parsed = command
        .try_get_matches_from(&arguments)
        .and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    match parsed {
        Ok((cli, matches)) => Ok(Settings { cli, matches, file }),
        // What parses without the file is the file's fault, and clap does not know of files.
        Err(error)
            if error.kind() == ErrorKind::ValueValidation
                && bare.try_get_matches_from(&arguments).is_ok() =>
        {
            bail!("{named}: {}", error.to_string().trim_start_matches("error: ").trim_end())
        }
        Err(error) => Err(error.into()),
    }
}

/// Inserts `serve` where no command is given: `wharf --port 9000`.
fn with_default_command(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let takes_value = ["--config", "--log-level", "--log-format"];
    let mut at = 1;
    while let Some(text) = arguments.get(at).and_then(|a| a.to_str()) {
        if takes_value.contains(&text) {
            at += 2;
        } else if takes_value.iter().any(|flag| text.starts_with(&format!("{flag}="))) {
            at += 1;
        } else {
            break;
        }
    }
    let is_flag_of_serve = match arguments.get(at).and_then(|a| a.to_str()) {
        None => at >= arguments.len(),
        Some("-h" | "--help" | "-V" | "--version") => false,
        Some(text) => text.starts_with('-'),
    };
    if is_flag_of_serve {
        arguments.insert(at.min(arguments.len()), DEFAULT_COMMAND.into());
    }
    if arguments.is_empty() {
        arguments.push("wharf".into());
    }
    arguments
}

/// Gives every flag its environment variable.
pub(crate) fn with_environment(command: Command) -> Command {
    let command = command.mut_args(|arg| name_variable(arg, "WHARF_"));
    let names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| {
        let prefix = match name.as_str() {
            "chat" | "bench" => format!("WHARF_{}_", name.to_ascii_uppercase()),
            _ => "WHARF_".to_owned(),
        };
        command.mut_subcommand(name, |sub| sub.mut_args(|arg| name_variable(arg, &prefix)))
    })
}

fn name_variable(arg: clap::Arg, prefix: &str) -> clap::Arg {
    if arg.get_long().is_none() || arg.get_env().is_some() || is_built_in(&arg) {
        return arg;
    }
    let name = format!("{prefix}{}", arg.get_id().as_str().to_ascii_uppercase());
    arg.env(OsStr::from(name))
}

fn is_built_in(arg: &clap::Arg) -> bool {
    matches!(arg.get_id().as_str(), "help" | "version")
}

/// The file to read: named by flag or variable, or the one in the working directory.
fn find_file(command: &Command, arguments: &[OsString]) -> Option<PathBuf> {
    let named = command
        .clone()
        .ignore_errors(true)
        .try_get_matches_from(arguments)
        .ok()
        .and_then(|matches| matches.get_one::<PathBuf>("config").cloned());
    named.or_else(|| Some(PathBuf::from(DEFAULT_FILE)).filter(|file| file.is_file()))
}

fn read_file(file: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the configuration file {}", file.display()))?;
    text.parse().with_context(|| file.display().to_string())
}

/// The flags that two commands share, and the table they have in the file.
fn shared_tables() -> [(&'static str, BTreeSet<String>); 2] {
    let longs = |command: Command| command.get_arguments().filter_map(key_of).collect();
    [
        ("engine", longs(EngineOptions::augment_args(Command::new("engine")))),
        ("hub", longs(HubArgs::augment_args(Command::new("hub")))),
    ]
}

/// An argument's key in the file, if it can stand there.
fn key_of(arg: &clap::Arg) -> Option<String> {
    arg.get_long().filter(|long| !NOT_IN_FILE.contains(long)).map(str::to_owned)
}

/// The table in which `key` of `command` stands; `None` is the top of the file.
fn table_of(command: &str, key: &str) -> &'static str {
    for (table, keys) in shared_tables() {
        if keys.contains(key) {
            return table;
        }
    }
    match command {
        "serve" => "serve",
        "engine" => "engine",
        "pull" => "pull",
        "chat" => "chat",
        "bench" => "bench",
        "perplexity" => "perplexity",
        _ => "",
    }
}

/// Every (table, key) that the file may hold; `""` is the top.
pub(crate) fn known_keys(command: &Command) -> BTreeSet<(String, String)> {
    let mut known: BTreeSet<_> =
        command.get_arguments().filter_map(key_of).map(|key| (String::new(), key)).collect();
    for sub in command.get_subcommands() {
        for key in sub.get_arguments().filter_map(key_of) {
            known.insert((table_of(sub.get_name(), &key).to_owned(), key));
        }
    }
    known
}

/// Refuses keys that are no flags, naming them.
fn check_keys(command: &Command, file: &Table) -> Result<()> {
    let known = known_keys(command);
    for (name, value) in file {
        let Value::Table(table) = value else {
            refuse_unknown(&known, "", name)?;
            continue;
        };
        if !known.iter().any(|(table, _)| table == name) {
            bail!("unknown table [{name}]");
        }
        for key in table.keys() {
            refuse_unknown(&known, name, key)?;
        }
    }
    Ok(())
}

fn refuse_unknown(known: &BTreeSet<(String, String)>, table: &str, key: &str) -> Result<()> {
    if known.contains(&(table.to_owned(), key.to_owned())) {
        return Ok(());
    }
    let place = if table.is_empty() { String::new() } else { format!(" in [{table}]") };
    match known.iter().find(|(_, known_key)| known_key == key) {
        Some((right, _)) if right.is_empty() => {
            bail!("unknown key `{key}`{place}: it stands above all tables")
        }
        Some((right, _)) => bail!("unknown key `{key}`{place}: it belongs in [{right}]"),
        None => bail!("unknown key `{key}`{place}: see `wharf {table} --help` for what there is"),
    }
}

/// Makes what the file says the default values of the flags.
fn with_file(command: Command, file: &Table) -> Result<Command> {
    let mut command = with_defaults(command, |key| file.get(key))?;
    let names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    for name in names {
        let value = |key: &str| file.get(table_of(&name, key)).and_then(|table| table.get(key));
        let mut outcome = Ok(());
        command = command.mut_subcommand(&name, |sub| {
            let bare = sub.clone();
            with_defaults(sub, value).unwrap_or_else(|error| {
                outcome = Err(error);
                bare
            })
        });
        outcome?;
    }
    Ok(command)
}

fn with_defaults<'a>(
    mut command: Command,
    value: impl Fn(&str) -> Option<&'a Value>,
) -> Result<Command> {
    let args: Vec<(String, String)> = command
        .get_arguments()
        .filter_map(|arg| Some((arg.get_id().to_string(), key_of(arg)?)))
        .collect();
    for (id, key) in args {
        if let Some(value) = value(&key).filter(|value| !value.is_table()) {
            let texts = texts_of(&key, value)?;
            command = command.mut_arg(id, |arg| arg.default_values(texts));
        }
    }
    Ok(command)
}

/// A value of the file as the texts a flag would have been given.
fn texts_of(key: &str, value: &Value) -> Result<Vec<OsStr>> {
    let texts = match value {
        Value::String(text) => vec![text.clone()],
        Value::Integer(number) => vec![number.to_string()],
        Value::Float(number) => vec![number.to_string()],
        Value::Boolean(truth) => vec![truth.to_string()],
        Value::Array(items) => {
            return items.iter().try_fold(Vec::new(), |mut all, item| {
                if item.is_array() {
                    bail!("`{key}` holds a list within a list");
                }
                all.extend(texts_of(key, item)?);
                Ok(all)
            });
        }
        Value::Datetime(_) | Value::Table(_) => bail!("`{key}` cannot hold such a value"),
    };
    Ok(texts.into_iter().map(OsStr::from).collect())
}

/// The engine's options as flags for a child: all of them, so that the child does not depend on
/// where they came from.
///
/// The API key is left out unless it was typed as a flag (and so is visible already): the child
/// inherits the environment, and is told which file to read. So is the draft model, which the
/// parent fetches as it does the model: the child gets a path.
pub(crate) fn engine_flags(serve: &ArgMatches) -> Vec<OsString> {
    let mut flags = Vec::new();
    for arg in EngineOptions::augment_args(Command::new("engine")).get_arguments() {
        let (id, Some(long)) = (arg.get_id().as_str(), arg.get_long()) else { continue };
        let typed = serve.value_source(id) == Some(clap::parser::ValueSource::CommandLine);
        if (id == "api_key" && !typed) || id == "draft_model" {
            continue;
        }
        for value in serve.get_raw(id).into_iter().flatten() {
            let mut flag = OsString::from(format!("--{long}="));
            flag.push(value);
            flags.push(flag);
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str], file: &str) -> Result<(Cli, ArgMatches)> {
        let bare = with_environment(Cli::command());
        let table: Table = file.parse()?;
        check_keys(&bare, &table)?;
        let arguments = arguments.iter().map(|&a| a.into()).collect();
        let matches =
            with_file(bare, &table)?.try_get_matches_from(with_default_command(arguments))?;
        Ok((Cli::from_arg_matches(&matches)?, matches))
    }

    fn serve(arguments: &[&str], file: &str) -> crate::cli::ServeArgs {
        match parse(arguments, file).unwrap().0.command {
            crate::cli::Command::Serve(args) => args,
            other => panic!("not serve: {other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        with_environment(Cli::command()).debug_assert();
    }

    #[test]
    fn every_flag_has_a_variable_and_a_key() {
        let command = with_environment(Cli::command());
        let known = known_keys(&command);
        let mut seen = 0;
        for sub in std::iter::once(&command).chain(command.get_subcommands()) {
            for arg in sub.get_arguments().filter(|arg| !is_built_in(arg)) {
                let Some(long) = arg.get_long() else { continue };
                let variable = arg.get_env().and_then(|e| e.to_str()).unwrap_or_default();
                assert!(variable.starts_with("WHARF_") || variable.starts_with("HF_"), "--{long}");
                if long != "config" {
                    let table =
                        if sub.get_name() == "wharf" { "" } else { table_of(sub.get_name(), long) };
                    assert!(known.contains(&(table.into(), long.into())), "--{long}");
                }
                seen += 1;
            }
        }
        assert!(seen > 50, "only {seen} flags");
    }

    #[test]
    fn no_two_flags_share_a_variable_by_accident() {
        let command = with_environment(Cli::command());
        let mut owners = std::collections::BTreeMap::new();
        for sub in command.get_subcommands() {
            for arg in sub.get_arguments().filter(|a| a.get_long().is_some()) {
                let Some(variable) = arg.get_env() else { continue };
                let owner = owners.entry(variable.to_owned()).or_insert(arg.get_long());
                assert_eq!(*owner, arg.get_long());
            }
        }
    }

    #[test]
    fn serve_is_the_command_when_none_is_given() {
        assert_eq!(serve(&["wharf"], "").port, 8000);
        assert_eq!(serve(&["wharf", "--port", "9000"], "").port, 9000);
        assert_eq!(serve(&["wharf", "--log-level", "info", "--port=1"], "").port, 1);
        assert_eq!(serve(&["wharf", "--log-level=info"], "").port, 8000);
        assert_eq!(serve(&["wharf", "--model", "chat"], "").model, "chat");
        for first in ["--help", "-V", "bench", "nonsense", "help"] {
            let arguments: Vec<OsString> = vec!["wharf".into(), first.into()];
            assert_eq!(with_default_command(arguments.clone()), arguments);
        }
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file = "[serve]\nport = 9000\nmodel = 'm'\n[engine]\nmax-num-seqs = 5\n\
                    served-model-name = ['a', 'b']\nno-prefix-caching = true\n[hub]\noffline = true";
        let args = serve(&["wharf", "serve", "--port", "9001"], file);
        assert_eq!((args.port, args.model.as_str()), (9001, "m"));
        assert_eq!(args.engine.max_num_seqs.get(), 5);
        assert_eq!(args.engine.served_model_name, ["a", "b"]);
        assert!(args.engine.no_prefix_caching && args.hub.offline);
        assert_eq!(args.engine.max_num_batched_tokens.get(), 256);
    }

    #[test]
    fn unknown_keys_are_errors_that_name_the_key() {
        for (file, expected) in [
            ("[serve]\nprot = 1", "unknown key `prot` in [serve]"),
            ("port = 1", "unknown key `port`: it belongs in [engine]"),
            ("[serve]\nmax-num-seqs = 1", "it belongs in [engine]"),
            ("[serve]\nlog-level = 'info'", "it stands above all tables"),
            ("[sevre]\nport = 1", "unknown table [sevre]"),
            ("config = 'x'", "unknown key `config`"),
            ("[serve]\nport = 2020-01-01", "cannot hold"),
            ("[serve]\nmax_num_seqs = 1", "unknown key `max_num_seqs`"),
        ] {
            let error = format!("{:#}", parse(&["wharf"], file).unwrap_err());
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }

    #[test]
    fn the_engine_child_gets_every_option_but_a_secret_key() {
        let (_, matches) =
            parse(&["wharf", "--threads", "2"], "[engine]\nmax-num-seqs = 5\napi-key = 'secret'")
                .unwrap();
        let flags = engine_flags(matches.subcommand_matches("serve").unwrap());
        let flags: Vec<_> = flags.iter().map(|f| f.to_str().unwrap()).collect();
        assert!(flags.contains(&"--threads=2") && flags.contains(&"--max-num-seqs=5"));
        assert!(flags.contains(&"--no-prefix-caching=false"));
        assert!(!flags.iter().any(|f| f.contains("secret")));
        let child: Vec<&str> = ["wharf", "engine"].into_iter().chain(flags).collect();
        parse(&child, "").unwrap();
        let (_, matches) = parse(&["wharf", "--api-key", "typed"], "").unwrap();
        let flags = engine_flags(matches.subcommand_matches("serve").unwrap());
        assert!(flags.contains(&"--api-key=typed".into()));
    }
}
