//! The `:authority` of requests, which means nothing on a unix socket, mended where HTTP refuses it.
//!
//! gRPC's C core (Python, C++, Ruby, PHP and others) sends the socket's percent-encoded path there. That is no host's name, so
//! the HTTP/2 library would reset every such call before any code of ours sees it. [`mend`] puts `-` in place of the
//! characters that no authority has, in the encoded header block (RFC 7541) as it comes from the client.
//!
//! No length changes: in plain text a character is a byte, and in Huffman's code `%` and `/` are as long as `-` is. So neither
//! the frame nor the table of earlier headers, which both ends keep and count the bytes of, becomes another; a later request
//! that refers to the table finds the mended text there. Hence nothing has to be remembered here.
//!
//! The field is known by its number in the static table or by its name spelled out, as the C core has it. What cannot be read
//! or mended is left as it came, and judged by the library.

use std::ops::Range;

use tonic::codegen::http::uri::Authority;

/// Number of `:authority` in the static table, and its name in plain text and in Huffman's code: a client may spell it out.
const AUTHORITY: usize = 1;
const NAME: &[u8] = b":authority";
const NAME_IN_HUFFMAN: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];
/// Integers longer than this are in no header that the library takes; the same for those beyond the block's end.
const MAX_CONTINUATION_BYTES: u32 = 4;

/// Huffman's codes of up to eight bits, which are all that paths are usually made of: length, first code, code after the last.
const CODES: [(usize, u32, u32); 4] = [(5, 0, 0xa), (6, 0x14, 0x2e), (7, 0x5c, 0x7c), (8, 0xf8, 0xfe)];
const PERCENT: u32 = 0x15;
const MINUS: u32 = 0x16;
const SLASH: u32 = 0x18;

/// Mends the authority in a header block, or in its beginning.
pub(super) fn mend(block: &mut [u8]) {
    let mut reader = Reader { block, at: 0 };
    let mut found = Vec::new();
    while let Some(field) = reader.field() {
        found.extend(field);
    }
    for value in found {
        let bytes = &mut block[value.bytes];
        if value.huffman {
            mend_huffman(bytes);
        } else if Authority::try_from(&*bytes).is_err() {
            mend_plain(bytes);
        }
    }
}

fn mend_plain(bytes: &mut [u8]) {
    for byte in bytes {
        if !byte.is_ascii_alphanumeric() && !matches!(byte, b'-' | b'.' | b'_' | b'~') {
            *byte = b'-';
        }
    }
}

fn mend_huffman(bytes: &mut [u8]) {
    let mut at = 0;
    'symbols: while at + CODES[0].0 <= bytes.len() * 8 {
        for (length, first, end) in CODES {
            let Some(code) = bits(bytes, at, length) else { return };
            if (first..end).contains(&code) {
                if length == 6 && matches!(code, PERCENT | SLASH) {
                    put_bits(bytes, at, length, MINUS);
                }
                at += length;
                continue 'symbols;
            }
        }
        // A longer code, or the filling at the end.
        return;
    }
}

fn bits(bytes: &[u8], at: usize, length: usize) -> Option<u32> {
    let bit = |index: usize| bytes.get(index / 8).map(|byte| u32::from(byte >> (7 - index % 8) & 1));
    (at..at + length).try_fold(0, |code, index| Some(code << 1 | bit(index)?))
}

fn put_bits(bytes: &mut [u8], at: usize, length: usize, code: u32) {
    for place in 0..length {
        let (index, mask) = ((at + place) / 8, 0x80 >> ((at + place) % 8));
        if code >> (length - 1 - place) & 1 == 1 { bytes[index] |= mask } else { bytes[index] &= !mask }
    }
}

/// A string in a block.
struct Text {
    bytes: Range<usize>,
    huffman: bool,
}

struct Reader<'a> {
    block: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    /// The next field: its value if it is a literal authority. `None` at the end and at what is incomplete.
    fn field(&mut self) -> Option<Option<Text>> {
        let first = *self.block.get(self.at)?;
        let prefix = match first {
            0x80.. => 7,
            0x40.. => 6,
            0x20.. => 5,
            _ => 4,
        };
        let number = self.integer(prefix)?;
        if matches!(first, 0x80.. | 0x20..0x40) {
            // Found in a table whole, or the table's new size.
            return Some(None);
        }
        let is_authority = match number {
            0 => {
                let name = self.text()?;
                &self.block[name.bytes] == if name.huffman { NAME_IN_HUFFMAN } else { NAME }
            }
            number => number == AUTHORITY,
        };
        let value = self.text()?;
        Some(is_authority.then_some(value))
    }

    fn text(&mut self) -> Option<Text> {
        let huffman = self.block.get(self.at)? & 0x80 != 0;
        let length = self.integer(7)?;
        let bytes = self.at..self.at.checked_add(length).filter(|&end| end <= self.block.len())?;
        self.at = bytes.end;
        Some(Text { bytes, huffman })
    }

    /// An integer in the lower `prefix` bits of the next byte, and in more bytes if they are all ones.
    fn integer(&mut self, prefix: u32) -> Option<usize> {
        let most = (1 << prefix) - 1;
        let mut number = usize::from(*self.block.get(self.at)?) & most;
        self.at += 1;
        if number < most {
            return Some(number);
        }
        for group in 0..MAX_CONTINUATION_BYTES {
            let byte = usize::from(*self.block.get(self.at)?);
            self.at += 1;
            number += (byte & 0x7f) << (7 * group);
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `:method: POST` and `:scheme: http` of the static table, then a literal authority that goes into the table.
    fn block(huffman: bool, value: &[u8]) -> Vec<u8> {
        let mut block = vec![0x83, 0x86, 0x41, u8::try_from(value.len()).unwrap() | if huffman { 0x80 } else { 0 }];
        block.extend(value);
        // `:path`, literal.
        block.extend([0x44, 2]);
        block.extend(b"/%");
        block
    }

    fn mended(mut block: Vec<u8>) -> Vec<u8> {
        mend(&mut block);
        block
    }

    #[test]
    fn a_path_becomes_a_name_of_the_same_length() {
        assert_eq!(mended(block(false, b"tmp%2Fcsi.sock")), block(false, b"tmp-2Fcsi.sock"));
        assert_eq!(mended(block(false, b"/run/a b/csi.sock")), block(false, b"-run-a-b-csi.sock"));
        assert_eq!(mended(block(false, "/ü@:1:2".as_bytes())), block(false, b"-----1-2"));
    }

    #[test]
    fn what_is_an_authority_stays_as_it_is() {
        for value in ["localhost", "localhost:9000", "[::1]:80", "csi.windlass.dev", "user@host"] {
            assert_eq!(mended(block(false, value.as_bytes())), block(false, value.as_bytes()));
        }
        // www.example.com, as RFC 7541 C.4.1 has it.
        let example = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(mended(block(true, &example)), block(true, &example));
    }

    #[test]
    fn a_path_in_huffmans_code_becomes_a_name_of_the_same_length() {
        // Codes of RFC 7541, appendix B.
        let encode = |text: &str| {
            let mut bits = String::new();
            for symbol in text.chars() {
                bits += match symbol {
                    '/' => "011000",
                    '%' => "010101",
                    '-' => "010110",
                    '.' => "010111",
                    '2' => "00010",
                    'F' => "1100001",
                    'c' => "00100",
                    'i' => "00110",
                    'k' => "1110101",
                    'o' => "00111",
                    's' => "01000",
                    'Z' => "11111101",
                    other => panic!("{other}"),
                };
            }
            while !bits.len().is_multiple_of(8) {
                bits.push('1');
            }
            bits.as_bytes()
                .chunks(8)
                .map(|byte| u8::from_str_radix(str::from_utf8(byte).unwrap(), 2).unwrap())
                .collect::<Vec<_>>()
        };
        for (path, name) in [("/csi.sock", "-csi.sock"), ("ZF%2Fcsi.sock/", "ZF-2Fcsi.sock-"), ("%", "-"), ("//%%", "----")] {
            assert_eq!(mended(block(true, &encode(path))), block(true, &encode(name)), "{path}");
        }
    }

    #[test]
    fn a_name_that_is_spelled_out_is_known() {
        let spelled = |name: &[u8], huffman: u8, value: &[u8]| {
            let length = |text: &[u8]| u8::try_from(text.len()).unwrap();
            [&[0x83, 0x40, length(name) | huffman], name, &[length(value)], value].concat()
        };
        for (name, huffman) in [(NAME, 0), (NAME_IN_HUFFMAN, 0x80)] {
            assert_eq!(mended(spelled(name, huffman, b"a%2Fb")), spelled(name, huffman, b"a-2Fb"));
        }
        for (name, huffman) in [(b":path".as_slice(), 0), (NAME_IN_HUFFMAN, 0), (NAME, 0x80)] {
            assert_eq!(mended(spelled(name, huffman, b"a%2Fb")), spelled(name, huffman, b"a%2Fb"));
        }
    }

    #[test]
    fn a_block_that_ends_early_is_left_as_it_is() {
        let whole = block(false, b"tmp%2Fcsi.sock");
        for end in 0..17 {
            assert_eq!(mended(whole[..end].to_vec()), whole[..end]);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_keep_their_length(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(mended(bytes.clone()).len(), bytes.len());
        }
    }
}
