//! JSON in one spelling: no white space, names of an object in order, each once; strings with the fewest escapes; numbers
//! as they are written.
//!
//! Numbers keep their spelling because nothing else keeps their value: `1` and `1.0` are two things to a service in Python,
//! and a number of forty digits is one, too.

use std::fmt;

use zeroize::Zeroizing;

/// The deepest nesting of lists and objects.
pub const MAX_DEPTH: usize = 100;

/// Why a text is no arguments. Holds nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No JSON, from this byte on.
    Syntax {
        at: usize,
    },
    TooDeep,
    /// A name stands twice in one object.
    Twice,
    NoObject,
    /// Something else than `args` and `kwargs`.
    Member,
    Args,
    Kwargs,
    /// The query is no `args=…&kwargs=…`.
    Query,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { at } => write!(f, "this is no JSON, from byte {at} on"),
            Self::TooDeep => write!(f, "lists and objects are nested in more than {MAX_DEPTH} levels"),
            Self::Twice => f.write_str("a name stands twice in one object"),
            Self::NoObject => f.write_str("arguments are an object: {\"args\": […], \"kwargs\": {…}}"),
            Self::Member => f.write_str("arguments have `args` and `kwargs`, and nothing else"),
            Self::Args => f.write_str("`args` is a list"),
            Self::Kwargs => f.write_str("`kwargs` is an object"),
            Self::Query => f.write_str("the query is args=…&kwargs=…, each at most once and percent-encoded JSON"),
        }
    }
}

impl std::error::Error for Fault {}

/// Of a whole text: one value.
pub(super) fn value(text: &str) -> Result<Zeroizing<String>, Fault> {
    let mut writer = Writer::new(text);
    writer.value(0)?;
    writer.end()?;
    Ok(writer.out)
}

/// Of a whole text that is an object: its members in order, names with their quotes.
pub(super) fn members(text: &str) -> Result<Vec<[Zeroizing<String>; 2]>, Fault> {
    let mut writer = Writer::new(text);
    writer.space();
    if writer.peek() != Some(b'{') {
        return Err(if writer.peek().is_none() { writer.syntax() } else { Fault::NoObject });
    }
    let members = writer.object(0)?;
    writer.end()?;
    let part = |from: usize, to: usize| Zeroizing::new(writer.out[from..to].to_owned());
    Ok(members
        .iter()
        .map(|member| [part(member.start, member.name_end), part(member.name_end + 1, member.end)])
        .collect())
}

/// Where one member of an object stands in the output.
#[derive(Clone, Copy)]
struct Member {
    start: usize,
    name_end: usize,
    end: usize,
}

/// Reads `text` and writes it anew.
struct Writer<'t> {
    text: &'t str,
    at: usize,
    out: Zeroizing<String>,
}

impl<'t> Writer<'t> {
    fn new(text: &'t str) -> Self {
        // It never gets longer: every escape that is left is the shortest that there is.
        Self { text, at: 0, out: Zeroizing::new(String::with_capacity(text.len())) }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn syntax(&self) -> Fault {
        Fault::Syntax { at: self.at }
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Takes this byte, and writes it.
    fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        self.space();
        if self.peek() != Some(byte) {
            return Err(self.syntax());
        }
        self.at += 1;
        self.out.push(char::from(byte));
        Ok(())
    }

    fn end(&mut self) -> Result<(), Fault> {
        self.space();
        if self.peek().is_none() { Ok(()) } else { Err(self.syntax()) }
    }

    fn value(&mut self, depth: usize) -> Result<(), Fault> {
        self.space();
        match self.peek() {
            Some(b'{') => self.object(depth).map(drop),
            Some(b'[') => self.list(depth),
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.word(),
        }
    }

    fn list(&mut self, depth: usize) -> Result<(), Fault> {
        if depth >= MAX_DEPTH {
            return Err(Fault::TooDeep);
        }
        self.expect(b'[')?;
        self.space();
        if self.peek() == Some(b']') {
            return self.expect(b']');
        }
        loop {
            self.value(depth + 1)?;
            self.space();
            match self.peek() {
                Some(b',') => self.expect(b',')?,
                _ => return self.expect(b']'),
            }
        }
    }

    /// Where its members stand, in their order.
    fn object(&mut self, depth: usize) -> Result<Vec<Member>, Fault> {
        if depth >= MAX_DEPTH {
            return Err(Fault::TooDeep);
        }
        self.expect(b'{')?;
        let mut members = Vec::new();
        self.space();
        if self.peek() == Some(b'}') {
            self.expect(b'}')?;
            return Ok(members);
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.syntax());
            }
            let start = self.out.len();
            self.string()?;
            let name_end = self.out.len();
            self.expect(b':')?;
            self.value(depth + 1)?;
            members.push(Member { start, name_end, end: self.out.len() });
            self.space();
            match self.peek() {
                Some(b',') => self.expect(b',')?,
                _ => break,
            }
        }
        self.expect(b'}')?;
        self.sort(&mut members)?;
        Ok(members)
    }

    /// Puts the members of the object that was just written into the order of their names.
    fn sort(&mut self, members: &mut [Member]) -> Result<(), Fault> {
        let name = |member: &Member| &self.out[member.start..member.name_end];
        if members.is_sorted_by(|a, b| name(a) < name(b)) {
            return Ok(());
        }
        let first = members.iter().map(|member| member.start).min().unwrap_or(0);
        members.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        if members.windows(2).any(|two| name(&two[0]) == name(&two[1])) {
            return Err(Fault::Twice);
        }
        let mut sorted = Zeroizing::new(String::with_capacity(self.out.len() - first));
        for member in members.iter_mut() {
            if !sorted.is_empty() {
                sorted.push(',');
            }
            let start = first + sorted.len();
            sorted.push_str(&self.out[member.start..member.end]);
            let moved = |at: usize| start + at - member.start;
            *member = Member { start, name_end: moved(member.name_end), end: moved(member.end) };
        }
        sorted.push('}');
        self.out.truncate(first);
        self.out.push_str(&sorted);
        Ok(())
    }

    fn string(&mut self) -> Result<(), Fault> {
        let rest = &self.text.as_bytes()[self.at + 1..];
        let mut escaped = false;
        let mut length = 0;
        loop {
            match rest.get(length) {
                None => return Err(self.syntax()),
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    length += 2;
                }
                Some(0..=0x1f) => return Err(self.syntax()),
                Some(_) => length += 1,
            }
        }
        let literal = self.text.get(self.at..self.at + length + 2).ok_or(self.syntax())?;
        if escaped {
            // Half a pair of surrogates is no character, and refused here.
            let meant: Zeroizing<String> = Zeroizing::new(serde_json::from_str(literal).map_err(|_| self.syntax())?);
            self.write_string(&meant);
        } else {
            self.out.push_str(literal);
        }
        self.at += literal.len();
        Ok(())
    }

    fn write_string(&mut self, text: &str) {
        use fmt::Write;
        self.out.push('"');
        for one in text.chars() {
            match one {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                // Writing to a String does not fail.
                '\0'..='\u{1f}' => drop(write!(self.out, "\\u{:04x}", u32::from(one))),
                _ => self.out.push(one),
            }
        }
        self.out.push('"');
    }

    fn number(&mut self) -> Result<(), Fault> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        self.out.push_str(&self.text[start..self.at]);
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.syntax()) } else { Ok(()) }
    }

    fn word(&mut self) -> Result<(), Fault> {
        let rest = &self.text[self.at..];
        let word = ["null", "true", "false"].into_iter().find(|word| rest.starts_with(word)).ok_or(self.syntax())?;
        self.at += word.len();
        self.out.push_str(word);
        Ok(())
    }
}
