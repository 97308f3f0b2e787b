//! Reading, decompressing and hashing beside the thread that uses the content.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Bytes handed over at once.
const CHUNK: usize = 256 << 10;

/// Chunks that wait at most, so that memory stays flat.
const CHUNKS: usize = 8;

type Chunk = io::Result<Vec<u8>>;

/// A reader whose content is made by a thread of its own, some chunks ahead of who reads it.
///
/// An error comes where it occurred, after all bytes before it. Dropping the reader ends the thread, after at most one
/// more read of the inner reader.
#[derive(Debug)]
pub struct ReadAhead {
    chunks: Option<Receiver<Chunk>>,
    used: Option<SyncSender<Vec<u8>>>,
    chunk: Vec<u8>,
    position: usize,
    thread: Option<JoinHandle<()>>,
}

impl ReadAhead {
    /// Starts to read.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn new(mut inner: impl Read + Send + 'static) -> io::Result<ReadAhead> {
        let (send, chunks) = sync_channel::<Chunk>(CHUNKS);
        let (used, unused) = sync_channel::<Vec<u8>>(CHUNKS);
        let thread = std::thread::Builder::new().name("read".to_owned()).spawn(move || {
            loop {
                let mut chunk = unused.try_recv().unwrap_or_default();
                chunk.resize(CHUNK, 0);
                let (filled, failed) = fill(&mut inner, &mut chunk);
                let is_last = filled < CHUNK;
                chunk.truncate(filled);
                if filled > 0 && send.send(Ok(chunk)).is_err() {
                    return;
                }
                if let Some(error) = failed {
                    // Nobody may be there to hear it.
                    let _ = send.send(Err(error));
                }
                if is_last {
                    return;
                }
            }
        })?;
        Ok(ReadAhead { chunks: Some(chunks), used: Some(used), chunk: Vec::new(), position: 0, thread: Some(thread) })
    }
}

/// Reads until the buffer is full, the end is there or an error: how much was read, and the error.
fn fill(inner: &mut impl Read, buffer: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut filled = 0;
    while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
        match inner.read(room) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (filled, Some(error)),
        }
    }
    (filled, None)
}

impl Read for ReadAhead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.chunk.len() {
            let Some(chunks) = &self.chunks else { return Ok(0) };
            match chunks.recv() {
                Ok(next) => {
                    let used = std::mem::replace(&mut self.chunk, next?);
                    if let Some(back) = &self.used {
                        // The thread makes a new one if this one does not come back.
                        let _ = back.try_send(used);
                    }
                    self.position = 0;
                }
                Err(_) => {
                    self.chunks = None;
                    // A thread that panicked has not read to the end.
                    return match self.thread.take().map(JoinHandle::join) {
                        Some(Err(_)) => Err(io::Error::other("the reading thread failed")),
                        _ => Ok(0),
                    };
                }
            }
        }
        let rest = self.chunk.get(self.position..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..length), rest.get(..length)) {
            to.copy_from_slice(from);
        }
        self.position += length;
        Ok(length)
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.chunks = None;
        self.used = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing<R>(R);

    impl<R: Read> Read for Failing<R> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(io::Error::other("torn")),
                length => Ok(length),
            }
        }
    }

    #[test]
    fn passes_everything_on() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 12 * CHUNK + 5] {
            let data: Vec<u8> = (0..length).map(|i| (i / 3) as u8).collect();
            let mut read = Vec::new();
            ReadAhead::new(io::Cursor::new(data.clone())).unwrap().read_to_end(&mut read).unwrap();
            assert!(read == data, "{length}");
        }
    }

    #[test]
    fn an_error_comes_after_what_was_read_before_it() {
        for length in [0, 7, 3 * CHUNK] {
            let mut reader = ReadAhead::new(Failing(io::repeat(1).take(length as u64))).unwrap();
            let mut read = Vec::new();
            assert_eq!(reader.read_to_end(&mut read).unwrap_err().to_string(), "torn");
            assert_eq!(read.len(), length);
        }
    }

    #[test]
    fn may_be_given_up() {
        let mut reader = ReadAhead::new(io::repeat(1)).unwrap();
        reader.read_exact(&mut [0; 100]).unwrap();
        drop(reader);
    }
}
