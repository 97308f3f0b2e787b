//! Writing layers the way Go's archive/tar does when Docker asks it for PAX: a ustar header where everything fits, and
//! PAX records for exactly what does not.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use super::{BLOCK, Entry, Kind, LayerError, SPECIAL_MAX, lossy};

/// The size in bytes of what ends a tar.
pub const TRAILER_SIZE: u64 = 2 * BLOCK;

const NAME_MAX: usize = 100;
const PREFIX_MAX: usize = 155;
const XATTR_RECORD: &[u8] = b"SCHILY.xattr.";

/// The bytes Go's archive/tar would write for an entry: headers, content and padding, without the trailer
/// ([`TRAILER_SIZE`]) that ends the archive.
///
/// # Errors
/// If the entry cannot be written at all.
pub fn go_tar_size(entry: &Entry) -> Result<u64, LayerError> {
    Ok(headers(entry)?.len() as u64 + entry.size().next_multiple_of(BLOCK))
}

/// Writes a layer's tar. The output depends on the entries alone.
#[derive(Debug)]
pub struct LayerWriter<W> {
    inner: W,
    offset: u64,
    buffer: Vec<u8>,
}

impl<W: Write> LayerWriter<W> {
    /// Starts a tar.
    pub fn new(inner: W) -> LayerWriter<W> {
        LayerWriter { inner, offset: 0, buffer: Vec::new() }
    }

    /// The number of bytes written so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Adds an entry. `content` is read for regular files only, and must have exactly the size the entry says.
    ///
    /// # Errors
    /// After an error the tar is unfinished and cannot be continued.
    pub fn append(&mut self, entry: &Entry, mut content: impl Read) -> Result<(), LayerError> {
        self.put(&headers(entry)?)?;
        let size = entry.size();
        if size == 0 {
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(256 << 10, 0);
        let mut left = size;
        let failed = |source| LayerError::Content { path: lossy(&entry.path), source };
        loop {
            let room = usize::try_from(left).unwrap_or(usize::MAX).clamp(1, buffer.len());
            let n = read_some(&mut content, &mut buffer[..room]).map_err(failed)?;
            // With nothing left, one more byte would mean that the file grew.
            if (n == 0) != (left == 0) {
                let actual = if left == 0 { size + 1 } else { size - left };
                return Err(LayerError::SizeChanged { path: lossy(&entry.path), expected: size, actual });
            }
            if n == 0 {
                break;
            }
            self.put(&buffer[..n])?;
            left -= n as u64;
        }
        self.buffer = buffer;
        let padding = (size.next_multiple_of(BLOCK) - size) as usize;
        self.put(&[0; BLOCK as usize][..padding])
    }

    /// Adds an entry that has no content.
    ///
    /// # Errors
    /// As [`LayerWriter::append`].
    pub fn append_empty(&mut self, entry: &Entry) -> Result<(), LayerError> {
        self.append(entry, io::empty())
    }

    /// Writes the trailer and gives the writer back, unflushed.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(mut self) -> Result<W, LayerError> {
        self.put(&[0; TRAILER_SIZE as usize])?;
        Ok(self.inner)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        let offset = self.offset;
        self.inner.write_all(bytes).map_err(|source| LayerError::Io { action: "write", offset, source })?;
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

fn read_some(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn is_ascii(text: &[u8]) -> bool {
    text.iter().all(|&b| b != 0 && b < 0x80)
}

/// What remains of a text in a ustar field when a PAX record has the whole.
fn to_ascii(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(|&b| b != 0 && b < 0x80).collect()
}

/// Splits a long path at a slash so that both parts fit a ustar header.
fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= NAME_MAX || !is_ascii(path) {
        return None;
    }
    let mut end = path.len();
    if end > PREFIX_MAX + 1 {
        end = PREFIX_MAX + 1;
    } else if path.ends_with(b"/") {
        end -= 1;
    }
    let slash = path[..end].iter().rposition(|&b| b == b'/')?;
    let (prefix, name) = (&path[..slash], &path[slash + 1..]);
    let fits = !prefix.is_empty() && prefix.len() <= PREFIX_MAX && (1..=NAME_MAX).contains(&name.len());
    fits.then_some((prefix, name))
}

/// Whether a number fits a field of so many bytes, one of them a NUL.
fn fits_octal(width: usize, value: i64) -> bool {
    value >= 0 && value < 1 << ((width - 1) * 3)
}

fn put_octal(field: &mut [u8], value: i64) {
    let value = if fits_octal(field.len(), value) { value } else { 0 };
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    field[..digits].copy_from_slice(text.as_bytes());
    field[digits] = 0;
}

/// Device numbers have no PAX record; those that do not fit are written in binary, as GNU tar does.
fn put_device(field: &mut [u8], value: u32) {
    if fits_octal(field.len(), i64::from(value)) {
        put_octal(field, i64::from(value));
    } else {
        field.fill(0);
        field[0] = 0x80;
        let end = field.len();
        field[end - 4..].copy_from_slice(&value.to_be_bytes());
    }
}

fn put_text(field: &mut [u8], text: &[u8]) {
    let n = text.len().min(field.len());
    field[..n].copy_from_slice(&text[..n]);
    // A cut name that ends in a slash would be a directory's to a reader that knows no PAX.
    if text.len() > field.len() && field.last() == Some(&b'/') {
        let kept = field.iter().rposition(|&b| b != b'/').map_or(0, |at| at + 1);
        field[kept] = 0;
    }
}

fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The length counts its own digits.
    let rest = key.len() + value.len() + 3;
    let mut len = rest + rest.to_string().len();
    if rest + len.to_string().len() != len {
        len = rest + len.to_string().len();
    }
    out.extend_from_slice(len.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

struct Fields<'a> {
    name: &'a [u8],
    prefix: &'a [u8],
    link: &'a [u8],
    flag: u8,
    mode: u32,
    uid: i64,
    gid: i64,
    size: i64,
    mtime: i64,
    /// None in an extended header, whose device fields Go leaves empty.
    device: Option<(u32, u32)>,
}

fn header(fields: &Fields<'_>) -> [u8; BLOCK as usize] {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes().fill(0);
    {
        let old = header.as_old_mut();
        put_text(&mut old.name, fields.name);
        put_octal(&mut old.mode, i64::from(fields.mode));
        put_octal(&mut old.uid, fields.uid);
        put_octal(&mut old.gid, fields.gid);
        put_octal(&mut old.size, fields.size);
        put_octal(&mut old.mtime, fields.mtime);
        old.linkflag = [fields.flag];
        put_text(&mut old.linkname, fields.link);
    }
    header.as_mut_bytes()[257..265].copy_from_slice(b"ustar\x0000");
    if let Some(ustar) = header.as_ustar_mut() {
        if let Some((major, minor)) = fields.device {
            put_device(&mut ustar.dev_major, major);
            put_device(&mut ustar.dev_minor, minor);
        }
        put_text(&mut ustar.prefix, fields.prefix);
    }
    let bytes = header.as_mut_bytes();
    bytes[148..156].fill(b' ');
    let sum: u32 = bytes.iter().map(|&b| u32::from(b)).sum();
    put_octal(&mut bytes[148..155], i64::from(sum));
    *bytes
}

/// The header of an entry, after its extended header if it needs one.
fn headers(entry: &Entry) -> Result<Vec<u8>, LayerError> {
    let mut path = entry.path.clone();
    if entry.kind == Kind::Dir && !path.ends_with(b"/") {
        path.push(b'/');
    }
    let (flag, link, device) = match &entry.kind {
        Kind::File { .. } => (b'0', &[][..], (0, 0)),
        Kind::Hardlink { target } => (b'1', target.as_slice(), (0, 0)),
        Kind::Symlink { target } => (b'2', target.as_slice(), (0, 0)),
        Kind::Char { major, minor } => (b'3', &[][..], (*major, *minor)),
        Kind::Block { major, minor } => (b'4', &[][..], (*major, *minor)),
        Kind::Dir => (b'5', &[][..], (0, 0)),
        Kind::Fifo => (b'6', &[][..], (0, 0)),
    };
    let unencodable = |what| LayerError::Unencodable { path: lossy(&entry.path), what };
    if path.contains(&0) || link.contains(&0) {
        return Err(unencodable("a name has a NUL byte"));
    }
    let size = i64::try_from(entry.size()).map_err(|_| unencodable("the size is above 2^63"))?;
    let (uid, gid, mtime) = (i64::from(entry.uid), i64::from(entry.gid), entry.mtime.secs);

    let mut records: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut needs_pax = false;
    let split = split_path(&path);
    if path.len() > NAME_MAX || !is_ascii(&path) {
        // Once there are records, a path that could be split is recorded too.
        records.insert(b"path".to_vec(), path.clone());
        needs_pax |= split.is_none();
    }
    if link.len() > NAME_MAX || !is_ascii(link) {
        records.insert(b"linkpath".to_vec(), link.to_vec());
        needs_pax = true;
    }
    for (key, width, value) in [("uid", 8, uid), ("gid", 8, gid), ("size", 12, size), ("mtime", 12, mtime)] {
        if !fits_octal(width, value) {
            records.insert(key.as_bytes().to_vec(), value.to_string().into_bytes());
            needs_pax = true;
        }
    }
    for (name, value) in &entry.xattrs {
        if name.is_empty() || name.contains(&b'=') || name.contains(&0) {
            return Err(LayerError::XattrName { path: lossy(&entry.path) });
        }
        records.insert([XATTR_RECORD, name].concat(), value.clone());
        needs_pax = true;
    }

    let mut out = Vec::new();
    let ascii_path = to_ascii(&path);
    let ascii_link = to_ascii(link);
    let (prefix, name) = match split {
        Some(parts) if !needs_pax => parts,
        _ => (&[][..], ascii_path.as_slice()),
    };
    if needs_pax {
        let mut data = Vec::new();
        for (key, value) in &records {
            record(&mut data, key, value);
        }
        if data.len() as u64 > SPECIAL_MAX {
            return Err(unencodable("names and extended attributes are larger than 1 MiB"));
        }
        let name = pax_name(&path);
        out.extend_from_slice(&header(&Fields {
            name: &name,
            prefix: &[],
            link: &[],
            flag: b'x',
            mode: 0,
            uid: 0,
            gid: 0,
            size: data.len() as i64,
            mtime: 0,
            device: None,
        }));
        data.resize(data.len().next_multiple_of(BLOCK as usize), 0);
        out.extend_from_slice(&data);
    }
    out.extend_from_slice(&header(&Fields {
        name,
        prefix,
        link: &ascii_link,
        flag,
        mode: entry.mode & 0o7777,
        uid,
        gid,
        size,
        mtime,
        device: Some(device),
    }));
    Ok(out)
}

/// The name of an extended header: `dir/PaxHeaders.0/base`, cleaned, cut to fit.
fn pax_name(path: &[u8]) -> Vec<u8> {
    let slash = path.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
    let joined = [&path[..slash], b"/PaxHeaders.0/", &path[slash..]].concat();
    let mut parts: Vec<&[u8]> = Vec::new();
    let rooted = joined.starts_with(b"/") && slash > 0;
    for part in joined.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => {
                parts.pop();
            }
            b".." if rooted => {}
            part => parts.push(part),
        }
    }
    let clean = parts.join(&b'/');
    let clean = if rooted { [b"/", clean.as_slice()].concat() } else { clean };
    let mut name = to_ascii(&clean);
    name.truncate(NAME_MAX);
    while name.ends_with(b"/") {
        name.pop();
    }
    name
}
