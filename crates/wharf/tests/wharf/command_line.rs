//! The real binary's command line: help, precedence of settings, and errors that say what to do.

use crate::program::{Wharf, checkpoint, output};

#[test]
fn help_is_for_newcomers() {
    let (status, out, _) = output(Wharf::command().arg("--help"));
    assert!(status.success());
    // Blank lines have blanks in them, which no snapshot keeps.
    let lines: Vec<&str> = out.lines().map(str::trim_end).collect();
    expect_test::expect![[r#"
        Serve large language models behind the OpenAI Chat Completions API.

        Without a command, `wharf` is `wharf serve`: it fetches a small model once, starts, and prints the URL to give to any OpenAI client.

        Usage: wharf [OPTIONS] <COMMAND>

        Commands:
          serve       Serve a model at its own URL, behind a gateway that keeps it running (the default)
          engine      Serve one model alone, without the gateway
          pull        Fetch a model and print where it is
          chat        Talk to a model in the terminal
          bench       Measure how fast a server answers, any that speaks the OpenAI API
          perplexity  Measure how well a model predicts a text: what a format or a setting costs
          help        Print this message or the help of the given subcommand(s)

        Options:
          -h, --help
                  Print help (see a summary with '-h')

          -V, --version
                  Print version

        Everywhere:
              --config <FILE>
                  Configuration file; `./wharf.toml` is read when it is there

                  [env: WHARF_CONFIG=]

              --log-level <LEVEL>
                  How much to log to standard error: error, warn, info, debug, trace, or a filter such as `wharf_engine=debug,info`

                  [env: WHARF_LOG_LEVEL=]
                  [default: warn]

              --log-format <FORMAT>
                  How to write log lines

                  Possible values:
                  - text: For people
                  - json: One JSON object per line, for programs

                  [env: WHARF_LOG_FORMAT=]
                  [default: text]

        Every flag is also an environment variable, shown in the help of each command, and a key of
        wharf.toml, in the table of its command: [serve] port = 8000. Flags that serve and engine share
        stand in [engine] and [hub]. Flags win over the environment, the environment over the file.
    "#]].assert_eq(&(lines.join("\n") + "\n"));
}

#[test]
fn every_command_explains_itself() {
    for command in ["serve", "engine", "pull", "chat", "bench", "perplexity"] {
        let (status, out, _) = output(Wharf::command().args([command, "--help"]));
        assert!(status.success() && out.contains("Usage: wharf"), "{command}: {out}");
    }
}

/// `bench` against a port where nothing listens names the URL that it took.
fn base_url_taken(configure: impl FnOnce(&mut std::process::Command, &std::path::Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Wharf::command();
    command.arg("bench").current_dir(folder.path());
    configure(&mut command, folder.path());
    let (status, _, err) = output(&mut command);
    assert!(!status.success());
    err
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = |folder: &std::path::Path| {
        let text = "[bench]\nbase-url = 'http://127.0.0.1:1/file'\n";
        std::fs::write(folder.join("wharf.toml"), text).unwrap();
    };
    let taken = base_url_taken(|_, folder| file(folder));
    assert!(taken.contains("127.0.0.1:1/file"), "{taken}");
    let taken = base_url_taken(|command, folder| {
        file(folder);
        command.env("WHARF_BENCH_BASE_URL", "http://127.0.0.1:1/environment");
    });
    assert!(taken.contains("127.0.0.1:1/environment"), "{taken}");
    let taken = base_url_taken(|command, folder| {
        file(folder);
        command.env("WHARF_BENCH_BASE_URL", "http://127.0.0.1:1/environment");
        command.args(["--base-url", "http://127.0.0.1:1/flag"]);
    });
    assert!(taken.contains("127.0.0.1:1/flag"), "{taken}");
}

#[test]
fn another_file_is_read_when_named() {
    let taken = base_url_taken(|command, folder| {
        let file = folder.join("other.toml");
        std::fs::write(&file, "[bench]\nbase-url = 'http://127.0.0.1:1/other'\n").unwrap();
        command.env("WHARF_CONFIG", file);
    });
    assert!(taken.contains("127.0.0.1:1/other"), "{taken}");
    let taken = base_url_taken(|command, _| {
        command.args(["--config", "missing.toml"]);
    });
    assert!(taken.contains("missing.toml"), "{taken}");
}

#[test]
fn what_is_wrong_in_the_file_is_named() {
    for (text, expected) in [
        ("[bench]\nbase-ulr = 'x'\n", "unknown key `base-ulr` in [bench]"),
        ("[bench]\nrequests = 'many'\n", "wharf.toml: invalid value 'many' for '--requests"),
        ("[serve]\nmax-num-seqs = 3\n", "it belongs in [engine]"),
        ("[bench\n", "wharf.toml"),
    ] {
        let taken = base_url_taken(|_, folder| {
            std::fs::write(folder.join("wharf.toml"), text).unwrap();
        });
        assert!(taken.contains(expected), "{taken:?} lacks {expected:?}");
    }
}

#[test]
fn a_port_in_use_is_told_with_the_remedy() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for command in ["serve", "engine"] {
        let (status, _, err) = output(Wharf::command().args([command, "--port", &port]));
        assert!(!status.success());
        assert!(err.contains("in use") && err.contains("--port"), "{err}");
    }
}

#[test]
fn a_model_that_is_not_there_is_told() {
    let (status, _, err) = output(Wharf::command().args(["pull", "./no-such-model.gguf"]));
    assert!(!status.success() && err.contains("no such file"), "{err}");
    let (status, _, err) = output(Wharf::command().args(["pull", "org/repo", "--offline"]));
    assert!(!status.success() && err.contains("--offline"), "{err}");
}

#[test]
fn pull_prints_a_path_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.gguf");
    std::fs::write(&file, b"x").unwrap();
    let (status, out, _) = output(Wharf::command().arg("pull").arg(&file));
    assert!(status.success());
    assert_eq!(out, format!("{}\n", file.display()));
}

#[test]
fn an_interrupted_pull_ends_pip_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let python = folder.path().join("python");
    let started = folder.path().join("started");
    // Plays pip: says that it runs, and never ends.
    let script = format!("#!/bin/sh\necho $$ > {}\nexec sleep 100\n", started.display());
    let write = ["-c", "printf %s \"$2\" > \"$1\" && chmod +x \"$1\"", "sh"];
    let mut shell = std::process::Command::new("sh");
    assert!(shell.args(write).arg(&python).arg(script).status().unwrap().success());
    let cache = folder.path().join("cache");
    let mut command = Wharf::command();
    command.args(["pull", "smollm2", "--python"]).arg(&python).arg("--cache-dir").arg(&cache);
    let mut pull = Wharf::start(&mut command);
    let began = std::time::Instant::now();
    let pid = loop {
        match std::fs::read_to_string(&started) {
            Ok(pid) if pid.ends_with('\n') => break pid.trim().to_owned(),
            _ => assert!(began.elapsed() < crate::program::PATIENCE, "{}", pull.err()),
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    pull.signal("TERM");
    assert!(!pull.wait().success());
    assert_eq!(std::fs::read_dir(cache.join("smollm2")).unwrap().count(), 0);
    while std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty()) {
        assert!(began.elapsed() < crate::program::PATIENCE, "pip goes on");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn perplexity_is_that_of_the_windows_second_halves() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, "The boat leaves the harbour when the tide is high. ".repeat(20))
        .unwrap();
    let run = |flags: &[&str]| {
        let mut command = Wharf::command();
        command.args(["perplexity", "--model"]).arg(checkpoint("qwen3")).args(flags).arg(&text);
        output(&mut command)
    };
    let (status, out, err) = run(&["--window", "32"]);
    assert!(status.success(), "{err}");
    // perplexity 320.0 +- 1.0 (N tokens counted of M, ...
    let numbers: Vec<f64> =
        out.split([' ', '(', ',']).filter_map(|word| word.parse().ok()).collect();
    let [perplexity, error, counted, of] = numbers[..4] else { panic!("{out}") };
    // Of random weights: worse than an even guess among the 320 tokens.
    assert!(perplexity > 320.0 && perplexity.is_finite() && error > 0.0, "{out}");
    assert!(counted > 0.0 && counted / of == 15.0 / 32.0, "{out}");

    // Settings reach the model.
    let of = |flags: &[&str]| {
        let (status, out, err) = run(&[&["--window", "32"], flags].concat());
        assert!(status.success(), "{err}");
        out.split(' ').nth(1).unwrap().to_owned()
    };
    let all = [&[][..], &["--quantize", "int8"], &["--quantize", "int4"]].map(of);
    assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2], "{all:?}");
    assert_ne!(of(&["--quantize", "int4", "--activations", "f32"]), all[2]);
    let caches = ["f32", "f16", "int8"].map(|format| of(&["--kv-cache-dtype", format]));
    assert!(caches[0] != caches[1] && caches[1] != caches[2] && caches[2] != caches[0]);
    let refused = [
        (["--isa", "portable"], "is for AMX, which --isa portable has not"),
        (["--activations", "f32"], "which --activations f32 forbids"),
    ];
    for (flags, why) in refused {
        let bf16 = ["--window", "32", "--kv-cache-dtype", "bf16"];
        let (status, _, err) = run(&[&bf16[..], &flags].concat());
        assert!(!status.success() && err.contains(why), "{err}");
    }
    let flags = ["--quantize", "int4", "--log-level", "info"];
    let (_, _, err) = run(&[&["--window", "32"], &flags[..]].concat());
    assert!(err.contains("quantised to Int4: relative error of the weights 0.0"), "{err}");

    let (status, _, err) = run(&["--window", "4096"]);
    assert!(!status.success() && err.contains("fewer than one --window of 4096"), "{err}");
    std::fs::write(&text, "tide ".repeat(1000)).unwrap();
    let (status, _, err) = run(&["--window", "300"]);
    assert!(!status.success() && err.contains("longer than the model's context of 256"), "{err}");
}
