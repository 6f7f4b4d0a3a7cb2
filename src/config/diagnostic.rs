//! What is wrong with a configuration, shown as a compiler shows it: file, line, column, the line with a caret.
//!
//! Never shows a secret: a line goes to the reader only through [`mask`], and titles do not repeat values
//! of settings that may hold one. `toml`'s own rendering is not used, because it prints lines as they are.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use super::{Location, mask};
use crate::shown;

/// More than this many errors are counted, not shown.
const MAX_SHOWN: usize = 200;

/// One configuration file as it was read.
pub struct SourceText {
    /// As the person named it, for messages.
    pub path: PathBuf,
    pub text: String,
}

/// A span of bytes in one of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) span: Range<usize>,
}

/// One error.
#[derive(Debug, Clone)]
pub(super) struct Diagnostic {
    title: String,
    subject: Subject,
    label: String,
    also: Vec<(Place, String)>,
    help: Vec<String>,
    /// Something is missing. In a file with syntax errors that may only mean that it could not be read.
    pub(super) about_absence: bool,
    /// The file is not there, or not for this user to read: who it is knows nothing of it.
    pub(super) out_of_reach: bool,
}

#[derive(Debug, Clone)]
enum Subject {
    Place(Place),
    /// A whole file, or a directory: opening it failed, or its mode is unsafe.
    Path(PathBuf),
}

impl Diagnostic {
    pub(super) fn at(place: Place, title: impl Into<String>) -> Self {
        Self::new(Subject::Place(place), title.into())
    }

    pub(super) fn of_path(path: impl Into<PathBuf>, title: impl Into<String>) -> Self {
        Self::new(Subject::Path(path.into()), title.into())
    }

    fn new(subject: Subject, title: String) -> Self {
        Self {
            title,
            subject,
            label: String::new(),
            also: Vec::new(),
            help: Vec::new(),
            about_absence: false,
            out_of_reach: false,
        }
    }

    /// The text beside the caret.
    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// A second place that has to do with it.
    pub(super) fn also(mut self, place: Place, label: impl Into<String>) -> Self {
        self.also.push((place, label.into()));
        self
    }

    /// What is legal, or how to fix it.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    pub(super) fn absence(mut self) -> Self {
        self.about_absence = true;
        self
    }

    pub(super) fn out_of_reach(mut self, so: bool) -> Self {
        self.out_of_reach = so;
        self
    }

    pub(super) fn place(&self) -> Option<&Place> {
        match &self.subject {
            Subject::Place(place) => Some(place),
            Subject::Path(_) => None,
        }
    }

    fn render(&self, files: &[SourceText], shown: &[String], renderer: &Renderer) -> String {
        let title = Level::ERROR.primary_title(self.title.as_str());
        let mut group = match &self.subject {
            Subject::Path(path) => title.element(annotate_snippets::Origin::path(shown_path(path))),
            Subject::Place(place) => title.elements(self.snippets(place, files, shown)),
        };
        for help in &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }

    /// One snippet for each file that it is about, the primary one first.
    fn snippets<'a>(
        &'a self,
        primary: &'a Place,
        files: &[SourceText],
        shown: &'a [String],
    ) -> Vec<Snippet<'a, annotate_snippets::Annotation<'a>>> {
        let mut spans = vec![(primary, self.label.as_str(), AnnotationKind::Primary)];
        spans.extend(self.also.iter().map(|(at, text)| (at, text.as_str(), AnnotationKind::Context)));
        let mut order: Vec<usize> = Vec::new();
        for (at, ..) in &spans {
            if !order.contains(&at.file) {
                order.push(at.file);
            }
        }
        let of = |file: usize| spans.iter().filter(move |(at, ..)| at.file == file);
        order.into_iter().map(|file| snippet(&files[file], &shown[file], of(file))).collect()
    }
}

/// The lines of one file that the spans are on. Only those are handed to the renderer, which scans all it gets.
fn snippet<'a: 's, 's>(
    file: &SourceText,
    shown: &'a str,
    spans: impl Iterator<Item = &'s (&'a Place, &'a str, AnnotationKind)> + Clone,
) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    let lines = spans.clone().map(|(at, ..)| first_line(shown, &at.span));
    let start = lines.clone().map(|line| line.start).min().unwrap_or(0);
    let end = lines.map(|line| line.end).max().unwrap_or(0);
    let mut snippet =
        Snippet::source(&shown[start..end]).line_start(line_number(shown, start)).path(shown_path(&file.path));
    for (at, label, kind) in spans {
        // A caret under the first line of a table of many lines says enough.
        let line = first_line(shown, &at.span);
        let from = shown.floor_char_boundary(at.span.start.clamp(line.start, line.end));
        let to = shown.ceil_char_boundary(at.span.end.clamp(from, line.end));
        let label = (!label.is_empty()).then_some(*label);
        snippet = snippet.annotation(kind.span(from - start..to - start).label(label));
    }
    snippet
}

/// The line that a span begins on, without its newline.
pub(super) fn first_line(text: &str, span: &Range<usize>) -> Range<usize> {
    let at = text.floor_char_boundary(span.start.min(text.len()));
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
    start..end
}

/// From 1.
fn line_number(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// The errors found so far, and what is worth saying besides.
pub(super) struct Report<'a> {
    pub(super) files: &'a [SourceText],
    pub(super) errors: Vec<Diagnostic>,
    pub(super) warnings: Vec<String>,
    pub(super) problems: Vec<String>,
    /// What is in the last two: a source that a preset makes is judged more than once.
    told: HashSet<String>,
    /// The offset of every newline of each file, for line numbers without reading the file again.
    newlines: Vec<Vec<usize>>,
}

impl<'a> Report<'a> {
    pub(super) fn new(files: &'a [SourceText]) -> Self {
        let newlines = |file: &SourceText| file.text.match_indices('\n').map(|(at, _)| at).collect();
        let newlines = files.iter().map(newlines).collect();
        Self { files, errors: Vec::new(), warnings: Vec::new(), problems: Vec::new(), told: HashSet::new(), newlines }
    }

    pub(super) fn error(&mut self, error: Diagnostic) {
        self.errors.push(error);
    }

    /// Legal, but looks like a mistake.
    pub(super) fn warning(&mut self, place: &Place, text: impl fmt::Display) {
        let text = format!("{}: {text}", self.location(place));
        if self.told.insert(text.clone()) {
            self.warnings.push(text);
        }
    }

    /// Does not stop a start, but is an error for `check`.
    pub(super) fn problem(&mut self, place: &Place, text: impl fmt::Display) {
        let text = format!("{}: {text}", self.location(place));
        if self.told.insert(text.clone()) {
            self.problems.push(text);
        }
    }

    pub(super) fn location(&self, place: &Place) -> Location {
        let line = self.newlines[place.file].partition_point(|newline| *newline < place.span.start) + 1;
        Location { file: self.files[place.file].path.clone(), line: u32::try_from(line).unwrap_or(u32::MAX) }
    }
}

/// Why a configuration was refused: everything that is wrong with it, not only the first thing.
///
/// Holds the text of the files, which may hold a secret by mistake; what it shows is masked, so that
/// `Display` and `Debug` are safe to log. The exit code for it is 78 (`EX_CONFIG`, sysexits.h).
pub struct LoadError {
    files: Vec<SourceText>,
    errors: Vec<Diagnostic>,
}

impl LoadError {
    pub(super) fn new(files: Vec<SourceText>, mut errors: Vec<Diagnostic>) -> Self {
        errors.sort_by_key(|error| error.place().map(|at| (at.file, at.span.start)));
        Self { files, errors }
    }

    /// How many errors there are; at least one.
    pub fn count(&self) -> usize {
        self.errors.len()
    }

    /// All errors for a person to read, each with the line it is about. Ends without a newline.
    pub fn render(&self, color: bool) -> String {
        let mut texts = self.texts(&if color { Renderer::styled() } else { Renderer::plain() });
        match self.errors.len() {
            0 | 1 => {}
            count if count > MAX_SHOWN => {
                texts.push(format!("{count} errors in the configuration, the first {MAX_SHOWN} are shown"));
            }
            count => texts.push(format!("{count} errors in the configuration")),
        }
        texts.join("\n\n")
    }

    /// The same, each by itself.
    pub fn each(&self) -> Vec<String> {
        self.texts(&Renderer::plain())
    }

    fn texts(&self, renderer: &Renderer) -> Vec<String> {
        let shown: Vec<String> = self.files.iter().map(|file| visible(&mask::masked(&file.text))).collect();
        let text = |error: &Diagnostic| error.render(&self.files, &shown, renderer).trim_end().to_owned();
        self.errors.iter().take(MAX_SHOWN).map(text).collect()
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl fmt::Debug for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for LoadError {}

/// Without the control characters that the renderer lets through (C1, which some terminals obey), each of two bytes.
fn visible(text: &str) -> String {
    text.replace(|c| ('\u{80}'..='\u{9f}').contains(&c), "·")
}

/// A path for a person: whatever could move the terminal is escaped.
fn shown_path(path: &Path) -> String {
    shown::part(&path.to_string_lossy())
}

/// A text of the configuration inside a message: in backticks, control characters escaped, not too long.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut short: String = text.chars().take(LONGEST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("`{}`", shown::part(&short))
}

/// The legal word that is most like what was written.
pub(super) fn similar<'a>(written: &str, legal: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let normal = written.to_lowercase().replace('_', "-");
    legal
        .into_iter()
        .map(|word| (strsim::osa_distance(&normal, &word.to_lowercase()), word))
        .filter(|(distance, word)| *distance <= (word.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}
