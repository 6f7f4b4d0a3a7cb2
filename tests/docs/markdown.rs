//! The documents, and the parts of them that can be checked. Knows as much of Markdown as they use.

use std::path::{Path, PathBuf};

pub(crate) struct Document {
    /// Below the root of the repository.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// README.md, CHANGELOG.md and all of docs, with the pages of presets.
pub(crate) fn documents() -> Vec<Document> {
    let mut paths = vec![PathBuf::from("README.md"), PathBuf::from("CHANGELOG.md")];
    for folder in ["docs", "docs/presets"].map(Path::new) {
        let found = std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
        let written = found.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
        paths.extend(written.map(|path| folder.join(path.file_name().unwrap())));
    }
    paths.sort();
    paths.into_iter().map(|path| Document { text: read(path.to_str().unwrap()), path }).collect()
}

impl Document {
    pub(crate) fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Lines that are not in a fenced block, each with its number from 1.
    pub(crate) fn prose(&self) -> Vec<(usize, &str)> {
        let mut fenced = false;
        let mut outside = |line: &str| {
            let fence = line.starts_with("```");
            fenced ^= fence;
            !fenced && !fence
        };
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line)).filter(|(_, line)| outside(line)).collect()
    }

    /// The fenced blocks in this language; `""` is those without one.
    pub(crate) fn blocks(&self, language: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut block: Option<(bool, String)> = None;
        for line in self.text.lines() {
            match (line.strip_prefix("```"), &mut block) {
                (Some(_), Some((wanted, text))) => {
                    if *wanted {
                        found.push(std::mem::take(text));
                    }
                    block = None;
                }
                (Some(of), None) => block = Some((of == language, String::new())),
                (None, Some((_, text))) => {
                    text.push_str(line);
                    text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(block.is_none(), "{}: a block that does not end", self.name());
        found
    }

    /// What stands between backticks in the prose, each with its line.
    pub(crate) fn spans(&self) -> Vec<(usize, &str)> {
        let of_line = |(number, line)| spans(line).map(move |span| (number, span));
        self.prose().into_iter().flat_map(of_line).collect()
    }

    /// The targets of its links.
    pub(crate) fn links(&self) -> Vec<(usize, &str)> {
        let target = |rest: &'_ str| rest.find(')');
        let of_line = |(number, line): (usize, _)| {
            str::split(line, "](").skip(1).filter_map(move |rest| Some((number, &rest[..target(rest)?])))
        };
        self.prose().into_iter().flat_map(of_line).collect()
    }

    /// The names by which its headings are linked to.
    pub(crate) fn anchors(&self) -> Vec<String> {
        let prose = self.prose();
        let headings = prose.iter().filter(|(_, line)| line.starts_with('#'));
        headings.map(|(_, line)| slug(line.trim_start_matches('#').trim())).collect()
    }
}

pub(crate) fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn slug(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.to_lowercase().chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn a_document_is_taken_apart() {
    let text = "# A `b`, c\nsee [x](y.md#z) and `k`\n```toml\n`no` = [1](2)\n```\n| `a`, `b` |\n".to_owned();
    let document = Document { path: "x.md".into(), text };
    assert_eq!(document.anchors(), ["a-b-c"]);
    assert_eq!(document.links(), [(2, "y.md#z")]);
    assert_eq!(document.blocks("toml"), ["`no` = [1](2)\n"]);
    assert_eq!(document.spans(), [(1, "b"), (2, "k"), (6, "a"), (6, "b")]);
}
