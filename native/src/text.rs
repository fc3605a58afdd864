//! Hexadecimal digits, UUIDs and JSON strings, as an envelope holds them (format.md, "Envelope").

const HEX: &[u8; 16] = b"0123456789abcdef";
const PAIRS: [[u8; 2]; 256] = pairs();

const fn pairs() -> [[u8; 2]; 256] {
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [HEX[byte >> 4], HEX[byte & 15]];
        byte += 1;
    }
    pairs
}

/// Lowercase hexadecimal digits.
pub fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut digits = [0; 64];
    for some in bytes.chunks(32) {
        for (pair, byte) in digits.chunks_exact_mut(2).zip(some) {
            pair.copy_from_slice(&PAIRS[usize::from(*byte)]);
        }
        out.extend_from_slice(&digits[..2 * some.len()]);
    }
}

/// The bytes of an even number of lowercase hexadecimal digits; None for anything else.
pub fn unhex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

/// A UUID: lowercase, hyphenated.
pub fn push_uuid(out: &mut Vec<u8>, id: &[u8; 16]) {
    for (number, part) in [&id[..4], &id[4..6], &id[6..8], &id[8..10], &id[10..]].into_iter().enumerate() {
        if number > 0 {
            out.push(b'-');
        }
        push_hex(out, part);
    }
}

/// The bytes of such a UUID; None for anything else.
pub fn uuid_of(text: &[u8]) -> Option<[u8; 16]> {
    if text.len() != 36 {
        return None;
    }
    let mut digits = [0; 32];
    let mut length = 0;
    for (place, character) in text.iter().enumerate() {
        if matches!(place, 8 | 13 | 18 | 23) {
            if *character != b'-' {
                return None;
            }
        } else {
            digits[length] = *character;
            length += 1;
        }
    }
    unhex(&digits)
}

/// A JSON string with its quotes (RFC 8785, section 3.2.2.2).
pub fn push_json(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let is_plain = |byte: &u8| *byte >= b' ' && *byte != b'"' && *byte != b'\\';
    // Without a way out of the loop, so that many bytes are looked at together.
    if bytes.iter().fold(true, |plain, byte| plain & is_plain(byte)) {
        out.extend_from_slice(bytes);
        out.push(b'"');
        return;
    }
    let mut plain_from = 0;
    for (place, byte) in bytes.iter().enumerate() {
        if is_plain(byte) {
            continue;
        }
        out.extend_from_slice(&bytes[plain_from..place]);
        plain_from = place + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            8 => out.extend_from_slice(b"\\b"),
            9 => out.extend_from_slice(b"\\t"),
            10 => out.extend_from_slice(b"\\n"),
            12 => out.extend_from_slice(b"\\f"),
            13 => out.extend_from_slice(b"\\r"),
            _ => {
                out.extend_from_slice(b"\\u00");
                push_hex(out, &[*byte]);
            }
        }
    }
    out.extend_from_slice(&bytes[plain_from..]);
    out.push(b'"');
}

/// The same, or `null`.
pub fn push_json_or_null(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => push_json(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

/// A number in decimal.
pub fn push_number(out: &mut Vec<u8>, number: i64) {
    let mut digits = [0; 20];
    let mut place = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        place -= 1;
        digits[place] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[place..]);
}
