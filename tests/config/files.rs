//! Files as they are read, and the documentation's own.

use super::*;

const DOCUMENT: &str = include_str!("../../docs/configuration.md");

/// The fenced blocks of the documentation in this language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    DOCUMENT.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn the_examples_of_the_documentation_are_legal() {
    let examples = blocks("toml");
    assert!(examples.len() >= 4, "only {} examples found", examples.len());
    for example in examples {
        config(example);
    }
}

#[test]
fn the_error_in_the_documentation_is_a_real_one() {
    let shown = DOCUMENT.split("```\n").find(|block| block.starts_with("error: ")).unwrap();
    let text = "\n\n[keys.\"/a\"]\nsource = { type = \"file\", path = \"/a\" }\n\nmax-age = 30\n";
    let mut files = sources(text);
    files[0].path = "/etc/keyhatch/keyhatch.toml".into();
    let error = parse(files, &Names).err().unwrap();
    assert_eq!(error.render(false).trim_end(), shown.trim_end());
}

#[test]
fn loading_reads_the_file_and_its_drop_ins() {
    let directory = tempfile::tempdir().unwrap();
    let main = directory.path().join("keyhatch.toml");
    let trust = Trust::Caller(nix::unistd::geteuid());
    let absent = load(&main, trust).err().unwrap().render(false);
    assert_eq!(
        absent,
        format!(
            "error: cannot open the configuration: No such file or directory\n--> {}\n = help: name another file with --config FILE or $KEYHATCH_CONFIG",
            main.display()
        )
    );
    std::fs::write(&main, "").unwrap();
    std::fs::create_dir(directory.path().join("conf.d")).unwrap();
    let drop_in = directory.path().join("conf.d/a.toml");
    std::fs::write(&drop_in, "[keys.\"/a\"]\nsource = { type = \"file\", path = \"/a\" }\n").unwrap();
    let config = load(&main, trust).unwrap();
    assert_eq!(config.keys[0].at.file, drop_in);
}

#[test]
fn an_unsafe_drop_in_and_errors_elsewhere_are_told_together() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let main = directory.path().join("keyhatch.toml");
    std::fs::write(&main, "sever = 1\n").unwrap();
    std::fs::create_dir(directory.path().join("conf.d")).unwrap();
    let drop_in = directory.path().join("conf.d/a.toml");
    std::fs::write(&drop_in, "").unwrap();
    std::fs::set_permissions(&drop_in, std::fs::Permissions::from_mode(0o666)).unwrap();
    let error = load(&main, Trust::Caller(nix::unistd::geteuid())).err().unwrap();
    assert_eq!(error.count(), 2);
    let text = error.render(false);
    assert!(text.contains("everybody can write") && text.contains("chmod o-w") && text.contains("`server`"), "{text}");
}
