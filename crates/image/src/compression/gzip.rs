//! gzip in parallel.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use flate2::{Compress, Compression, Crc, FlushCompress};

/// Input bytes of one independently compressed block.
const BLOCK: usize = 1 << 20;

/// ID1 ID2 CM FLG MTIME XFL OS (RFC 1952); no time and no system, so that equal input gives equal output.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

type Done = io::Result<(Vec<u8>, Crc)>;

struct Job {
    input: Vec<u8>,
    done: SyncSender<Done>,
}

/// Compresses to one gzip member, in blocks of 1 MiB that threads compress independently. Each block ends at a byte
/// boundary (an empty stored block), so that they can be joined; the output depends on input and level alone.
pub struct GzipWriter<W: Write> {
    inner: W,
    level: Compression,
    threads: usize,
    block: Vec<u8>,
    crc: Crc,
    jobs: Option<Sender<Job>>,
    queue: Arc<Mutex<Receiver<Job>>>,
    workers: Vec<JoinHandle<()>>,
    pending: VecDeque<Receiver<Done>>,
    header_written: bool,
}

impl<W: Write> std::fmt::Debug for GzipWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GzipWriter").field("threads", &self.threads).finish_non_exhaustive()
    }
}

fn compress_block(input: &[u8], level: Compression) -> Done {
    let mut crc = Crc::new();
    crc.update(input);
    let mut state = Compress::new(level, false);
    let mut out = Vec::with_capacity(input.len() / 2 + 1024);
    loop {
        let used = state.total_in() as usize;
        out.reserve(64 << 10);
        state.compress_vec(&input[used..], &mut out, FlushCompress::Sync).map_err(io::Error::other)?;
        // Room left over after a flush means that everything has come out.
        if state.total_in() as usize == input.len() && out.len() < out.capacity() {
            return Ok((out, crc));
        }
    }
}

impl<W: Write> GzipWriter<W> {
    /// Starts a member of this level (1 to 9). With more than one thread, input beyond the first block is compressed
    /// beside the caller, at most two blocks a thread at a time.
    pub fn new(inner: W, level: u32, threads: usize) -> GzipWriter<W> {
        let (jobs, queue) = channel();
        GzipWriter {
            inner,
            level: Compression::new(level.clamp(1, 9)),
            threads: threads.clamp(1, 64),
            block: Vec::new(),
            crc: Crc::new(),
            jobs: Some(jobs),
            queue: Arc::new(Mutex::new(queue)),
            workers: Vec::new(),
            pending: VecDeque::new(),
            header_written: false,
        }
    }

    fn emit(&mut self, done: Done) -> io::Result<()> {
        let (bytes, crc) = done?;
        if !self.header_written {
            self.inner.write_all(&HEADER)?;
            self.header_written = true;
        }
        self.crc.combine(&crc);
        self.inner.write_all(&bytes)
    }

    fn emit_oldest(&mut self) -> io::Result<()> {
        match self.pending.pop_front() {
            Some(receiver) => {
                let done = receiver.recv().map_err(|_| io::Error::other("gzip worker thread ended early"))?;
                self.emit(done)
            }
            None => Ok(()),
        }
    }

    fn start_worker(&mut self) -> io::Result<()> {
        let (queue, level) = (Arc::clone(&self.queue), self.level);
        let worker = std::thread::Builder::new().name("gzip".into()).spawn(move || {
            loop {
                let job = match queue.lock() {
                    Ok(queue) => queue.recv(),
                    Err(_) => return,
                };
                let Ok(job) = job else { return };
                // The receiver may be gone: its writer was dropped after an error.
                let _ = job.done.send(compress_block(&job.input, level));
            }
        })?;
        self.workers.push(worker);
        Ok(())
    }

    fn dispatch(&mut self) -> io::Result<()> {
        let input = std::mem::take(&mut self.block);
        if self.threads == 1 {
            let done = compress_block(&input, self.level);
            self.block = input;
            self.block.clear();
            return self.emit(done);
        }
        if self.workers.len() < self.threads {
            // Where no thread can be had (a limit on processes), fewer must do, or none.
            if self.start_worker().is_err() && self.workers.is_empty() {
                return self.emit(compress_block(&input, self.level));
            }
        }
        while self.pending.len() >= 2 * self.threads {
            self.emit_oldest()?;
        }
        let (done, receiver) = sync_channel(1);
        if let Some(jobs) = &self.jobs {
            jobs.send(Job { input, done }).map_err(|_| io::Error::other("gzip worker threads ended early"))?;
        }
        self.pending.push_back(receiver);
        Ok(())
    }

    /// Writes what is left and the trailer, and gives the writer back.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(mut self) -> io::Result<W> {
        while !self.pending.is_empty() {
            self.emit_oldest()?;
        }
        let last = std::mem::take(&mut self.block);
        self.emit(compress_block(&last, self.level))?;
        // An empty last block with fixed codes: final bit 1, type 01, end of block 0000000 (RFC 1951, section 3.2.3).
        self.inner.write_all(&[0x03, 0x00])?;
        self.inner.write_all(&self.crc.sum().to_le_bytes())?;
        self.inner.write_all(&self.crc.amount().to_le_bytes())?;
        self.jobs = None;
        for worker in self.workers.drain(..) {
            worker.join().map_err(|_| io::Error::other("gzip worker thread panicked"))?;
        }
        Ok(self.inner)
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.block.len() == BLOCK {
            self.dispatch()?;
        }
        let n = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    /// Flushes what has been compressed; a block that is not full stays, so that flushing does not change the output.
    fn flush(&mut self) -> io::Result<()> {
        while !self.pending.is_empty() {
            self.emit_oldest()?;
        }
        self.inner.flush()
    }
}
