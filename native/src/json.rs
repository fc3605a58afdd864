//! JSON that is taken apart without being understood (RFC 8259), and canonical envelopes (format.md, "Envelope").
//!
//! Both take less than JSON allows: what they refuse is looked at by others.

use crate::entry::{Hash, MAX_DEPTH};
use crate::text::{unhex, uuid_of};
use crate::times::stored_of;

/// Bytes of a string of an envelope that are taken here: more than any rule allows, and no more characters than Python
/// takes.
const MOST_OF_A_TEXT: usize = 1024;

/// A place in a text.
pub struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    /// text: valid UTF-8.
    pub fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    pub fn is_at_end(&self) -> bool {
        self.at == self.text.len()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = *self.text.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Passes over bytes that must come next.
    pub fn expect(&mut self, expected: &[u8]) -> Option<()> {
        let rest = self.text.get(self.at..)?;
        rest.starts_with(expected).then(|| self.at += expected.len())
    }

    /// The inside of a string without escapes.
    pub fn plain_string(&mut self) -> Option<&'a [u8]> {
        self.expect(b"\"")?;
        let start = self.at;
        loop {
            match self.next()? {
                b'"' => return Some(&self.text[start..self.at - 1]),
                b'\\' | 0..=31 => return None,
                _ => {}
            }
        }
    }

    /// A value, as it stands.
    pub fn value(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        self.pass_value(MAX_DEPTH)?;
        Some(&self.text[start..self.at])
    }

    fn pass_value(&mut self, levels: usize) -> Option<()> {
        match self.peek()? {
            b'"' => self.pass_string(),
            b'{' => self.pass_members(levels.checked_sub(1)?, b'}', true),
            b'[' => self.pass_members(levels.checked_sub(1)?, b']', false),
            b't' => self.expect(b"true"),
            b'f' => self.expect(b"false"),
            b'n' => self.expect(b"null"),
            _ => self.pass_number(),
        }
    }

    fn pass_members(&mut self, levels: usize, end: u8, named: bool) -> Option<()> {
        self.at += 1;
        self.pass_blanks();
        if self.peek()? == end {
            self.at += 1;
            return Some(());
        }
        loop {
            if named {
                self.pass_string()?;
                self.pass_blanks();
                self.expect(b":")?;
                self.pass_blanks();
            }
            self.pass_value(levels)?;
            self.pass_blanks();
            match self.next()? {
                b',' => self.pass_blanks(),
                byte if byte == end => return Some(()),
                _ => return None,
            }
        }
    }

    fn pass_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn pass_string(&mut self) -> Option<()> {
        self.expect(b"\"")?;
        loop {
            match self.next()? {
                b'"' => return Some(()),
                b'\\' => matches!(self.next()?, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't').then_some(())?,
                0..=31 => return None,
                _ => {}
            }
        }
    }

    fn pass_number(&mut self) -> Option<()> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        match self.next()? {
            b'0' => {}
            b'1'..=b'9' => self.pass_digits(),
            _ => return None,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.next()?.is_ascii_digit().then(|| self.pass_digits())?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.next()?.is_ascii_digit().then(|| self.pass_digits())?;
        }
        Some(())
    }

    fn pass_digits(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
    }

    fn position(&mut self) -> Option<i64> {
        let start = self.at;
        self.pass_digits();
        let digits = std::str::from_utf8(&self.text[start..self.at]).ok()?;
        let number: i64 = digits.parse().ok()?;
        (number >= 1 && !digits.starts_with('0')).then_some(number)
    }

    fn name(&mut self) -> Option<&'a str> {
        let text = std::str::from_utf8(self.plain_string()?).ok()?;
        (text.len() <= MOST_OF_A_TEXT).then_some(text)
    }

    fn name_or_null(&mut self) -> Option<Option<&'a str>> {
        if self.peek()? == b'n' {
            return self.expect(b"null").map(|()| None);
        }
        self.name().map(Some)
    }
}

/// What a canonical envelope says.
pub struct Parsed<'a> {
    pub action: &'a str,
    pub actor: &'a str,
    pub actor_type: &'a str,
    pub body: Hash,
    pub id: [u8; 16],
    pub ledger: &'a str,
    pub occurred: i64,
    pub position: i64,
    pub prev: Hash,
    pub recorded: i64,
    pub resource_id: Option<&'a str>,
    pub resource_type: Option<&'a str>,
}

/// The envelope of those bytes. None for what is not canonical, and for strings that are long or have escapes.
pub fn envelope_of(text: &str) -> Option<Parsed<'_>> {
    let mut scanner = Scanner::new(text.as_bytes());
    scanner.expect(b"{\"action\":")?;
    let action = scanner.name()?;
    scanner.expect(b",\"actor\":")?;
    let actor = scanner.name()?;
    scanner.expect(b",\"actor_type\":")?;
    let actor_type = scanner.name()?;
    scanner.expect(b",\"body\":")?;
    let body = unhex(scanner.plain_string()?)?;
    scanner.expect(b",\"id\":")?;
    let id = uuid_of(scanner.plain_string()?)?;
    scanner.expect(b",\"ledger\":")?;
    let ledger = scanner.name()?;
    scanner.expect(b",\"occurred_at\":")?;
    let occurred = stored_of(scanner.plain_string()?)?;
    scanner.expect(b",\"position\":")?;
    let position = scanner.position()?;
    scanner.expect(b",\"prev\":")?;
    let prev = unhex(scanner.plain_string()?)?;
    scanner.expect(b",\"recorded_at\":")?;
    let recorded = stored_of(scanner.plain_string()?)?;
    scanner.expect(b",\"resource_id\":")?;
    let resource_id = scanner.name_or_null()?;
    scanner.expect(b",\"resource_type\":")?;
    let resource_type = scanner.name_or_null()?;
    scanner.expect(b",\"v\":1}")?;
    scanner.is_at_end().then_some(Parsed {
        action,
        actor,
        actor_type,
        body,
        id,
        ledger,
        occurred,
        position,
        prev,
        recorded,
        resource_id,
        resource_type,
    })
}

/// before, after, metadata and salt of a body's bytes; None for what is not in the form that is hashed, and for `\u`.
pub fn body_of(text: &str) -> Option<([&str; 3], [u8; 16])> {
    let mut scanner = Scanner::new(text.as_bytes());
    let mut value = |name: &[u8]| {
        scanner.expect(name)?;
        std::str::from_utf8(scanner.value()?).ok()
    };
    let after = value(b"{\"after\":")?;
    let before = value(b",\"before\":")?;
    let metadata = value(b",\"metadata\":")?;
    scanner.expect(b",\"salt\":")?;
    let salt = unhex(scanner.plain_string()?)?;
    scanner.expect(b"}")?;
    scanner.is_at_end().then_some(([before, after, metadata], salt))
}
