//! Reading layers.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::sparse::{Run, SparseMap};
use super::{BLOCK, Entry, Kind, LayerError, Mtime, SPECIAL_MAX, lossy};

type Block = [u8; BLOCK as usize];

/// Reads the entries of a tar, one after the other: ustar, old v7, GNU (long names, sparse files, binary numbers) and PAX.
///
/// The order of calls is [`LayerReader::next_entry`], then [`LayerReader::content`] if wanted; what is left of a content
/// is skipped by the next call.
#[derive(Debug)]
pub struct LayerReader<R> {
    inner: R,
    offset: u64,
    /// Stored bytes of the present entry that are not read yet.
    left: u64,
    padding: u64,
    sparse: Option<SparseMap>,
    path: String,
    done: bool,
}

/// The content of the present entry.
#[derive(Debug)]
pub struct Content<'a, R> {
    reader: &'a mut LayerReader<R>,
}

/// What extended headers said about the next entry.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<i64>,
    gid: Option<i64>,
    mtime: Option<Mtime>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    sparse: PaxSparse,
}

/// GNU's sparse files in PAX, formats 0.0, 0.1 and 1.0.
#[derive(Default)]
struct PaxSparse {
    version: Option<(u64, u64)>,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    map: Option<SparseMap>,
    offset: Option<u64>,
}

impl<R: Read> LayerReader<R> {
    /// Starts at the beginning of a tar.
    pub fn new(inner: R) -> LayerReader<R> {
        LayerReader { inner, offset: 0, left: 0, padding: 0, sparse: None, path: String::new(), done: false }
    }

    /// The number of bytes read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Gives the stream back. After the last entry it may hold more padding: who checks the digest of the whole stream
    /// reads it to its end.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// Reads the rest of the stream, whatever it is, so that a verifying or hashing reader below sees all of it.
    ///
    /// # Errors
    /// [`LayerError::Io`].
    pub fn drain(&mut self) -> Result<(), LayerError> {
        let offset = self.offset;
        let n = io::copy(&mut self.inner, &mut io::sink()).map_err(|source| LayerError::Io {
            action: "read",
            offset,
            source,
        })?;
        self.offset += n;
        self.done = true;
        Ok(())
    }

    /// The content of the entry that was read last; empty unless that is a regular file.
    pub fn content(&mut self) -> Content<'_, R> {
        Content { reader: self }
    }

    /// The next entry, or nothing at the end.
    ///
    /// # Errors
    /// [`LayerError::Truncated`], [`LayerError::Corrupt`], [`LayerError::Unsupported`], or [`LayerError::Io`].
    pub fn next_entry(&mut self) -> Result<Option<Entry>, LayerError> {
        if self.done {
            return Ok(None);
        }
        self.skip_content()?;
        let mut extended = Extended::default();
        let mut pending = false;
        loop {
            let at = self.offset;
            let Some(block) = self.next_header()? else {
                self.done = true;
                if pending {
                    return Err(LayerError::Corrupt { offset: at, what: "extended header that no entry follows" });
                }
                return Ok(None);
            };
            let corrupt = |what| LayerError::Corrupt { offset: at, what };
            let size = number(&block[124..136])
                .and_then(|n| u64::try_from(n).ok())
                .ok_or_else(|| corrupt("invalid size in header"))?;
            let flag = block[156];
            match flag {
                b'x' | b'X' => {
                    let data = self.special(size, at)?;
                    parse_pax(&data, &mut extended, at)?;
                    pending = true;
                }
                // A global header holds a comment (git writes one); Docker ignores it.
                b'g' => {
                    self.special(size, at)?;
                }
                b'L' => {
                    extended.path = Some(until_nul(&self.special(size, at)?).to_vec());
                    pending = true;
                }
                b'K' => {
                    extended.link = Some(until_nul(&self.special(size, at)?).to_vec());
                    pending = true;
                }
                _ => return self.entry(&block, size, extended, at).map(Some),
            }
        }
    }

    fn entry(&mut self, block: &Block, size: u64, extended: Extended, at: u64) -> Result<Entry, LayerError> {
        let corrupt = |what| LayerError::Corrupt { offset: at, what };
        let field = |range: std::ops::Range<usize>, what| number(&block[range]).ok_or_else(|| corrupt(what));
        let header = tar::Header::from_byte_slice(block);
        let mut flag = block[156];
        let sparse = extended.sparse;
        let mut path = match sparse.name.filter(|_| sparse.map.is_some() || sparse.version.is_some()) {
            Some(name) => name,
            None => extended.path.unwrap_or_else(|| header_path(header)),
        };
        let link = extended.link.unwrap_or_else(|| until_nul(&header.as_old().linkname).to_vec());
        let mut stored = extended.size.unwrap_or(size);
        if matches!(flag, 0 | b'0' | b'7') && path.ends_with(b"/") {
            flag = b'5';
        }
        let device = || -> Result<(u32, u32), LayerError> {
            // v7 headers have other bytes here.
            if header.as_ustar().is_none() && header.as_gnu().is_none() {
                return Ok((0, 0));
            }
            let part = |range| {
                u32::try_from(field(range, "invalid device number in header")?)
                    .map_err(|_| corrupt("invalid device number in header"))
            };
            Ok((part(329..337)?, part(337..345)?))
        };
        self.path = lossy(&path);
        let kind = match flag {
            0 | b'0' | b'7' => {
                let real = match (sparse.version, sparse.map) {
                    (Some((1, 0)), _) => {
                        let real = sparse.size.ok_or_else(|| corrupt("sparse file without a size"))?;
                        let (map, used) = self.read_sparse_map(stored, at)?;
                        stored -= used;
                        Some((map, real))
                    }
                    (_, Some(map)) => Some((map, sparse.size.ok_or_else(|| corrupt("sparse file without a size"))?)),
                    _ => None,
                };
                self.begin_file(stored, real, at)?
            }
            b'S' => {
                let gnu = header.as_gnu().ok_or_else(|| corrupt("sparse file in a header that is not GNU's"))?;
                let real = number(&gnu.realsize).and_then(|n| u64::try_from(n).ok());
                let real = real.ok_or_else(|| corrupt("invalid size of sparse file"))?;
                let mut map = SparseMap::default();
                let mut more = gnu.isextended[0] != 0;
                let mut ended = push_parts(&mut map, &block[386..482], at)?;
                while more {
                    let next = self.block()?.ok_or_else(|| self.truncated())?;
                    if !ended {
                        ended = push_parts(&mut map, &next[..504], at)?;
                    }
                    more = next[504] != 0;
                }
                self.begin_file(stored, Some((map, real)), at)?
            }
            b'1' => Kind::Hardlink { target: link },
            b'2' => Kind::Symlink { target: link },
            b'3' => device().map(|(major, minor)| Kind::Char { major, minor })?,
            b'4' => device().map(|(major, minor)| Kind::Block { major, minor })?,
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            other => {
                return Err(LayerError::Unsupported { offset: at, path: lossy(&path), flag: char::from(other) });
            }
        };
        if kind == Kind::Dir {
            while path.ends_with(b"/") {
                path.pop();
            }
        }
        let owner = |given: Option<i64>, range, what| {
            let value = match given {
                Some(value) => value,
                None => field(range, what)?,
            };
            // A negative owner is the kernel's number above 2^31, as when Docker passes it on.
            u32::try_from(value).or_else(|_| i32::try_from(value).map(|v| v as u32)).map_err(|_| corrupt(what))
        };
        let uid = owner(extended.uid, 108..116, "invalid owner in header")?;
        let gid = owner(extended.gid, 116..124, "invalid group in header")?;
        let mode = field(100..108, "invalid mode in header")? as u32 & 0o7777;
        let mtime = match extended.mtime {
            Some(mtime) => mtime,
            None => Mtime { secs: field(136..148, "invalid time in header")?, nanos: 0 },
        };
        Ok(Entry { path, kind, mode, uid, gid, mtime, xattrs: extended.xattrs })
    }

    /// Makes ready for the content of a regular file.
    fn begin_file(&mut self, stored: u64, sparse: Option<(SparseMap, u64)>, at: u64) -> Result<Kind, LayerError> {
        self.left = stored;
        self.padding = (BLOCK - stored % BLOCK) % BLOCK;
        let Some((mut map, real)) = sparse else {
            return Ok(Kind::File { size: stored });
        };
        map.seal(real, stored, at)?;
        self.sparse = Some(map);
        Ok(Kind::File { size: real })
    }

    /// The map at the beginning of a sparse file's content, and the bytes it takes: decimal numbers a line, the first
    /// their number, filled up to a block (GNU tar manual, "PAX Format, Version 1.0").
    fn read_sparse_map(&mut self, stored: u64, at: u64) -> Result<(SparseMap, u64), LayerError> {
        let corrupt = || LayerError::Corrupt { offset: at, what: "invalid map of sparse file" };
        let mut map = SparseMap::default();
        let (mut used, mut current) = (0_u64, None::<u64>);
        let (mut count, mut offset) = (None::<u64>, None::<u64>);
        while count.is_none_or(|left| left > 0) {
            if used + BLOCK > stored.next_multiple_of(BLOCK) {
                return Err(corrupt());
            }
            let block = self.block()?.ok_or_else(|| self.truncated())?;
            used += BLOCK;
            for byte in block {
                if count == Some(0) {
                    break;
                }
                match (byte, current) {
                    (b'0'..=b'9', _) => {
                        let digit = u64::from(byte - b'0');
                        let value = current.unwrap_or(0).checked_mul(10).and_then(|v| v.checked_add(digit));
                        current = Some(value.ok_or_else(corrupt)?);
                    }
                    (b'\n', Some(value)) => {
                        current = None;
                        match (count, offset.take()) {
                            (None, _) => count = Some(value),
                            (Some(_), None) => offset = Some(value),
                            (Some(left), Some(offset)) => {
                                map.push(offset, value, at)?;
                                count = Some(left - 1);
                            }
                        }
                    }
                    _ => return Err(corrupt()),
                }
            }
        }
        if used > stored {
            return Err(corrupt());
        }
        Ok((map, used))
    }

    /// The data of a header about the next entry.
    fn special(&mut self, size: u64, at: u64) -> Result<Vec<u8>, LayerError> {
        if size > SPECIAL_MAX {
            return Err(LayerError::Corrupt { offset: at, what: "extended header is larger than 1 MiB" });
        }
        let mut data = Vec::with_capacity(size as usize);
        while (data.len() as u64) < size {
            data.extend_from_slice(&self.block()?.ok_or_else(|| self.truncated())?);
        }
        data.truncate(size as usize);
        Ok(data)
    }

    /// The next header block with a right checksum, or nothing at the end of the archive.
    fn next_header(&mut self) -> Result<Option<Block>, LayerError> {
        self.path.clear();
        let at = self.offset;
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        if block == [0; BLOCK as usize] {
            return match self.block()? {
                None => Ok(None),
                Some(second) if second == [0; BLOCK as usize] => Ok(None),
                Some(_) => Err(LayerError::Corrupt { offset: at, what: "empty block within the archive" }),
            };
        }
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (at, &byte) in block.iter().enumerate() {
            let byte = if (148..156).contains(&at) { b' ' } else { byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte as i8);
        }
        match number(&block[148..156]) {
            Some(sum) if sum == unsigned || sum == signed => Ok(Some(block)),
            _ => Err(LayerError::Corrupt { offset: at, what: "invalid tar header" }),
        }
    }

    /// One block, or nothing if the stream ends before it.
    fn block(&mut self) -> Result<Option<Block>, LayerError> {
        let mut block = [0; BLOCK as usize];
        let mut filled = 0;
        while filled < block.len() {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => {
                    self.offset += filled as u64;
                    return Err(self.truncated());
                }
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(LayerError::Io { action: "read", offset: self.offset + filled as u64, source });
                }
            }
        }
        self.offset += BLOCK;
        Ok(Some(block))
    }

    fn truncated(&self) -> LayerError {
        LayerError::Truncated { offset: self.offset, path: self.path.clone() }
    }

    fn skip_content(&mut self) -> Result<(), LayerError> {
        self.sparse = None;
        let skip = self.left + self.padding;
        if skip > 0 {
            let offset = self.offset;
            let n = io::copy(&mut self.inner.by_ref().take(skip), &mut io::sink())
                .map_err(|source| LayerError::Io { action: "read", offset, source })?;
            self.offset += n;
            if n < skip {
                return Err(self.truncated());
            }
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    fn read_stored(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if room == 0 {
            return Ok(0);
        }
        let n = self.inner.read(&mut buffer[..room])?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, self.truncated()));
        }
        self.left -= n as u64;
        self.offset += n as u64;
        Ok(n)
    }
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(map) = &self.reader.sparse else {
            return self.reader.read_stored(buffer);
        };
        let limit = |len: u64, buffer: &[u8]| usize::try_from(len).unwrap_or(usize::MAX).min(buffer.len());
        let n = match map.run() {
            Run::End => return Ok(0),
            Run::Hole(len) => {
                let n = limit(len, buffer);
                buffer[..n].fill(0);
                n
            }
            Run::Data(len) => {
                let n = limit(len, buffer);
                self.reader.read_stored(&mut buffer[..n])?
            }
        };
        if let Some(map) = &mut self.reader.sparse {
            map.advance(n as u64);
        }
        Ok(n)
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len())]
}

/// Name and prefix of a header that is POSIX's; GNU's has other things in the prefix.
fn header_path(header: &tar::Header) -> Vec<u8> {
    let name = until_nul(&header.as_old().name);
    match header.as_ustar().map(|ustar| until_nul(&ustar.prefix)) {
        Some(prefix) if !prefix.is_empty() => [prefix, b"/", name].concat(),
        _ => name.to_vec(),
    }
}

/// A number in octal, perhaps with spaces around, or in binary with the first bit set. Nothing is zero.
fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        // Two's complement, whose sign is the second bit.
        let negative = first & 0x40 != 0;
        let fill = if negative { 0xff } else { 0 };
        let bytes = std::iter::once(first & 0x7f | fill & 0x80).chain(field[1..].iter().copied());
        let mut value = if negative { -1_i128 } else { 0 };
        for byte in bytes {
            value = value.checked_shl(8)? | i128::from(byte);
        }
        return i64::try_from(value).ok();
    }
    let trimmed: &[u8] = field.trim_ascii_start();
    let digits = &trimmed[..trimmed.iter().position(|b| matches!(b, 0 | b' ')).unwrap_or(trimmed.len())];
    let rest_blank = trimmed[digits.len()..].iter().all(|b| matches!(b, 0 | b' '));
    if !rest_blank {
        return None;
    }
    digits.iter().try_fold(0_i64, |value, &b| match b {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(b - b'0')),
        _ => None,
    })
}

/// Adds the parts of one GNU sparse header; whether the list ended.
fn push_parts(map: &mut SparseMap, bytes: &[u8], at: u64) -> Result<bool, LayerError> {
    for part in bytes.chunks_exact(24) {
        if part[0] == 0 {
            return Ok(true);
        }
        let value = |field| {
            number(field)
                .and_then(|n| u64::try_from(n).ok())
                .ok_or(LayerError::Corrupt { offset: at, what: "invalid map of sparse file" })
        };
        map.push(value(&part[..12])?, value(&part[12..])?, at)?;
    }
    Ok(false)
}

/// The records `length key=value\n` of an extended header.
fn parse_pax(mut data: &[u8], out: &mut Extended, at: u64) -> Result<(), LayerError> {
    let bad = || LayerError::Corrupt { offset: at, what: "invalid record in extended header" };
    while !data.is_empty() {
        let space = data.iter().position(|&b| b == b' ').ok_or_else(bad)?;
        let len = decimal(&data[..space]).and_then(|n| usize::try_from(n).ok()).ok_or_else(bad)?;
        if len <= space + 1 || len > data.len() || data[len - 1] != b'\n' {
            return Err(bad());
        }
        let record = &data[space + 1..len - 1];
        data = &data[len..];
        let equals = record.iter().position(|&b| b == b'=').ok_or_else(bad)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if key.is_empty() {
            return Err(bad());
        }
        // An empty value takes back what an earlier header said.
        let text = || (!value.is_empty()).then(|| value.to_vec());
        let whole = || match value {
            b"" => Ok(None),
            digits => decimal(digits).map(Some).ok_or_else(bad),
        };
        let signed = || match value {
            b"" => Ok(None),
            _ => std::str::from_utf8(value).ok().and_then(|v| v.parse::<i64>().ok()).map(Some).ok_or_else(bad),
        };
        match key {
            b"path" | b"linkpath" if value.contains(&0) => return Err(bad()),
            b"path" => out.path = text(),
            b"linkpath" => out.link = text(),
            b"size" => out.size = whole()?,
            b"uid" => out.uid = signed()?,
            b"gid" => out.gid = signed()?,
            b"mtime" if value.is_empty() => out.mtime = None,
            b"mtime" => out.mtime = Some(pax_time(value).ok_or_else(bad)?),
            b"GNU.sparse.major" => out.sparse.version.get_or_insert((0, 0)).0 = decimal(value).ok_or_else(bad)?,
            b"GNU.sparse.minor" => out.sparse.version.get_or_insert((0, 0)).1 = decimal(value).ok_or_else(bad)?,
            b"GNU.sparse.name" => out.sparse.name = text(),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => out.sparse.size = whole()?,
            b"GNU.sparse.numblocks" => {
                out.sparse.map.get_or_insert_default();
            }
            b"GNU.sparse.offset" => out.sparse.offset = whole()?,
            b"GNU.sparse.numbytes" => {
                let offset = out.sparse.offset.take().ok_or_else(bad)?;
                let len = decimal(value).ok_or_else(bad)?;
                out.sparse.map.get_or_insert_default().push(offset, len, at)?;
            }
            b"GNU.sparse.map" => {
                let mut map = SparseMap::default();
                let mut numbers = value.split(|&b| b == b',').filter(|n| !n.is_empty());
                while let Some(offset) = numbers.next() {
                    let len = numbers.next().and_then(decimal).ok_or_else(bad)?;
                    map.push(decimal(offset).ok_or_else(bad)?, len, at)?;
                }
                out.sparse.map = Some(map);
            }
            key => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    if name.is_empty() {
                        return Err(bad());
                    }
                    out.xattrs.insert(name.to_vec(), value.to_vec());
                }
            }
        }
    }
    Ok(())
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `-?digits[.digits]`; digits beyond nanoseconds are dropped.
fn pax_time(text: &[u8]) -> Option<Mtime> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let secs: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9.9}").parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        return Some(Mtime { secs: secs.checked_sub(1)?, nanos: 1_000_000_000 - nanos });
    }
    Some(Mtime { secs, nanos })
}
