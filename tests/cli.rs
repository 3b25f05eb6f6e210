//! The command as a process, as far as it needs neither root nor a node: exit codes, texts, JSON, repositories.

#![allow(clippy::unwrap_used, clippy::panic, reason = "called by tests only")]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output};

fn windlass(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_windlass"));
    for variable in ["RESTIC_REPOSITORY", "RESTIC_PASSWORD", "RESTIC_PASSWORD_FILE", "CSI_ENDPOINT", "WINDLASS_ENDPOINT"] {
        command.env_remove(variable);
    }
    command.args(arguments);
    command
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Runs it and returns exit code, standard output and standard error.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = windlass(arguments).output().unwrap();
    (code(&output), text(&output.stdout).to_owned(), text(&output.stderr).to_owned())
}

fn in_repository(folder: &Path, password: &str, arguments: &[&str]) -> (i32, String, String) {
    let mut command = windlass(arguments);
    command.env("RESTIC_REPOSITORY", folder).env("RESTIC_PASSWORD", password);
    let output = command.output().unwrap();
    (code(&output), text(&output.stdout).to_owned(), text(&output.stderr).to_owned())
}

#[test]
fn help_explains_the_exit_codes_and_is_no_error() {
    let (code, out, _) = run(&["--help"]);
    assert_eq!(code, 0);
    assert!(out.contains("Exit codes:") && out.contains("130  interrupted"), "{out}");
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    for arguments in [&["bogus"][..], &["volume", "create", "x"], &["volume", "create", "x", "--size", "1GB"], &["node"]] {
        let (code, out, _) = run(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}");
    }
    let (code, _, err) = run(&["node", "--pool", "/nonexistent"]);
    assert_eq!(code, 2);
    assert!(err.contains("hint: add --standalone"), "{err}");
}

#[test]
fn a_node_that_is_not_there_ends_with_5_and_says_how_to_start_it() {
    let endpoint = "unix:///nonexistent/csi.sock";
    for arguments in [
        &["volume", "list"][..],
        &["snapshot", "list"],
        &["pool", "status"],
        &["volume", "create", "x", "--size", "1GiB"],
        &["snapshot", "delete", "x"],
    ] {
        let (code, out, err) = run(&[arguments, &["--endpoint", endpoint]].concat());
        assert_eq!((code, out.as_str()), (5, ""), "{arguments:?}");
        assert!(err.starts_with("error: cannot reach the node at unix:///nonexistent/csi.sock: "), "{err}");
        assert!(err.contains("windlass node --standalone"), "{err}");
    }
}

#[test]
fn errors_are_json_when_json_is_asked_for() {
    let (code, _, err) = run(&["--output", "json", "volume", "list", "--endpoint", "unix:///nonexistent/csi.sock"]);
    let error: serde_json::Value = serde_json::from_str(&err).unwrap();
    assert_eq!((code, error["error"]["exit_code"].as_i64()), (5, Some(5)));
    let (code, _, err) = run(&["volume", "bogus", "--output=json"]);
    let error: serde_json::Value = serde_json::from_str(&err).unwrap();
    assert_eq!((code, error["error"]["exit_code"].as_i64()), (2, Some(2)));
}

/// A name that is no UTF-8.
fn no_text() -> &'static OsStr {
    OsStr::from_bytes(b"caf\xe9")
}

#[test]
fn an_argument_that_has_to_be_text_and_is_not_is_a_wrong_command_line() {
    for arguments in [
        &[][..],
        &["bogus"],
        &["volume", "create", "--size", "1GiB"],
        &["volume", "create", "x", "--size"],
        &["volume", "list", "--endpoint"],
        &["snapshot", "delete"],
        &["snapshot", "create", "x", "--volume"],
        &["export", "x", "--tag", "a", "--repository"],
        &["restore", "--file", "/nonexistent/x", "--repository", "/nonexistent", "--path"],
        &["repository", "check", "--repository"],
        &["node", "--standalone", "--pool", "/nonexistent", "--node-id"],
        &["--output"],
        &["--log-format"],
    ] {
        for asked in [Format::Text, Format::Json] {
            let mut command = windlass(asked.arguments());
            let output = command.args(arguments).arg(no_text()).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{arguments:?} {asked:?}: {error}");
            assert!(output.stdout.is_empty() && !error.contains("panicked"), "{arguments:?}: {error}");
            if asked == Format::Json {
                let error: serde_json::Value =
                    serde_json::from_str(&error).unwrap_or_else(|bad| panic!("{arguments:?}: {bad}: {error}"));
                assert_eq!(error["error"]["exit_code"], 2);
            }
        }
    }
}

/// How errors are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

impl Format {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Text => &[],
            Self::Json => &["--output=json"],
        }
    }
}

#[test]
fn a_path_is_the_bytes_that_were_given() {
    let folder = tempfile::tempdir().unwrap();
    let (place, password) = (folder.path().join("repository"), folder.path().join(no_text()));
    std::fs::write(&password, "geheim\n").unwrap();
    let place = place.to_str().unwrap();
    let made = windlass(&["repository", "init", "--repository", place, "--password-file"]).arg(&password).output().unwrap();
    assert_eq!(code(&made), 0, "{}", String::from_utf8_lossy(&made.stderr));
    // That nothing of that name is there is found out, and told.
    let missing = folder.path().join(OsString::from_iter([no_text(), OsStr::new("-gone")]));
    let refused = windlass(&["repository", "init", "--repository", place, "--password-file"]).arg(&missing).output().unwrap();
    assert_eq!(code(&refused), 3);
    let target = folder.path().join("target");
    std::fs::create_dir(&target).unwrap();
    for format in ["text", "json"] {
        let arguments = ["restore", "--repository", place, "--output", format, "--password-file"];
        let restored = windlass(&arguments).arg(&password).arg("--file").arg(target.join(no_text())).output().unwrap();
        assert_eq!(code(&restored), 3, "{}", String::from_utf8_lossy(&restored.stderr));
        assert!(restored.stdout.is_empty());
    }
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0);
    let taken = target.join(no_text());
    std::fs::write(&taken, "mine").unwrap();
    let mut again = windlass(&["restore", "--repository", place, "--password-file"]);
    let refused = again.arg(&password).arg("--file").arg(&taken).output().unwrap();
    assert_eq!(code(&refused), 4, "what is there was not found by its name");
}

#[test]
fn a_malformed_log_filter_is_named() {
    let output = windlass(&["volume", "list"]).env("WINDLASS_LOG", "windlass=loudly").output().unwrap();
    assert_eq!(code(&output), 2);
    assert!(text(&output.stderr).contains("WINDLASS_LOG"), "{}", text(&output.stderr));
}

#[test]
fn a_repository_is_made_once_listed_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("repository");
    let run = |password: &str, arguments: &[&str]| in_repository(&place, password, arguments);
    assert_eq!(run("geheim", &["repository", "snapshots"]).0, 3);
    assert_eq!(run("", &["repository", "init"]).0, 2);
    assert_eq!(run("geheim", &["repository", "init"]).0, 0);
    assert_eq!(run("geheim", &["repository", "init"]).0, 4);
    let (code, _, err) = run("falsch", &["repository", "snapshots"]);
    assert_eq!(code, 4);
    assert!(err.contains("RESTIC_PASSWORD") && !err.contains("falsch"), "{err}");
    let (code, out, _) = run("geheim", &["repository", "snapshots", "--output", "json"]);
    assert_eq!(code, 0);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap()["snapshots"], serde_json::json!([]));
    let (code, out, _) = run("geheim", &["repository", "check", "--read-data"]);
    assert_eq!(code, 0);
    assert!(out.ends_with("no errors were found\n"), "{out}");

    let password = folder.path().join("password");
    std::fs::write(&password, "geheim\n").unwrap();
    let mut listed = windlass(&["repository", "snapshots", "--repository", place.to_str().unwrap(), "--password-file"]);
    let output = listed.arg(&password).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_restore_to_a_file_leaves_nothing_when_there_is_nothing_to_restore() {
    let folder = tempfile::tempdir().unwrap();
    let (place, target) = (folder.path().join("repository"), folder.path().join("target"));
    std::fs::create_dir(&target).unwrap();
    let file = target.join("image");
    let restore = ["restore", "--file", file.to_str().unwrap()];
    assert_eq!(in_repository(&place, "geheim", &restore).0, 3);
    assert_eq!(in_repository(&place, "geheim", &["repository", "init"]).0, 0);
    let (code, _, err) = in_repository(&place, "geheim", &restore);
    assert_eq!(code, 3);
    assert!(err.contains("windlass repository snapshots"), "{err}");
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0);
    std::fs::write(&file, "mine").unwrap();
    assert_eq!(in_repository(&place, "geheim", &restore).0, 4);
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
}
