//! The memory that the code reads: generations of directories, and what was looked for in vain.

use crate::sys::lookaside::{
    CLASS, ENTRIES, ENTRY_WORDS, ERROR_AND_LENGTH, FOLLOWS, GENERATIONS, HASH, HASH_FACTOR, HASH_START, LONGEST,
    MOST_SLOTS, PATH, READS_LINK, SEQUENCE, SLOT_COUNT, SLOTS, STAYS, SharedMemory, VIEW,
};
use rustix::{fd::BorrowedFd, io::Errno};
use std::{
    cell::RefCell,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

/// Which of the generations is a directory's. Two may share one: then a change of one seems to be one of the other.
type Slot = u32;

/// The generation of the mount table. No directory has it.
const MOUNTS: Slot = 0;

/// That of the directory with this number.
fn slot(number: u64) -> Slot {
    1 + (number % (GENERATIONS as u64 - 1)) as Slot
}

/// What a call asks of its path, as far as the answer depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Whether it leads anywhere, where a link at its end is followed.
    Follows,
    /// The same of the link itself.
    Stays,
    /// Whether it is a link.
    ReadsLink,
}

impl Class {
    const fn number(self) -> u32 {
        match self {
            Self::Follows => FOLLOWS,
            Self::Stays => STAYS,
            Self::ReadsLink => READS_LINK,
        }
    }
}

/// Of this process: file systems tell it of changes without knowing whether anybody looks.
static BOARD: OnceLock<Board> = OnceLock::new();

thread_local! {
    /// The directories that the call at hand has searched.
    static SEARCHED: RefCell<Option<Searched>> = const { RefCell::new(None) };
}

/// Directories with the generations that they had before they were searched.
#[derive(Debug, Default)]
pub(crate) struct Searched {
    slots: Vec<(Slot, u32)>,
    /// Something was looked at that may change unseen.
    beyond: bool,
}

#[derive(Debug)]
pub(super) struct Board {
    memory: SharedMemory,
    /// Held by who writes entries.
    writer: Mutex<()>,
}

fn raise(slot: Slot) {
    if let Some(generation) = BOARD.get().and_then(|board| board.generation(slot)) {
        generation.fetch_add(1, Ordering::SeqCst);
    }
}

/// The directory of this number has a name more or less, or may be searched by others than before. To be called after
/// the change, and before anybody is told of it.
pub(crate) fn directory_changed(number: u64) {
    raise(slot(number));
}

/// Something was mounted or unmounted somewhere. To be called after the change.
pub(crate) fn mounts_changed() {
    raise(MOUNTS);
}

/// The directory of this number is about to be searched; `None` is one that may change unseen.
pub(crate) fn searches(number: Option<u64>) {
    SEARCHED.with_borrow_mut(|searched| {
        if let (Some(searched), Some(board)) = (searched, BOARD.get()) {
            searched.add(board, number.map(slot));
        }
    });
}

/// Begins to note what is searched.
pub(crate) fn watch() {
    let Some(board) = BOARD.get() else { return };
    let mut searched = Searched::default();
    searched.add(board, Some(MOUNTS));
    SEARCHED.set(Some(searched));
}

/// What was searched since [`watch`], unless it may change unseen.
pub(crate) fn watched() -> Option<Searched> {
    SEARCHED.take().filter(|searched| !searched.beyond)
}

impl Searched {
    /// Whether nothing of it has changed since.
    #[cfg(test)]
    pub(crate) fn holds(&self) -> bool {
        let now = |slot| Some(BOARD.get()?.generation(slot)?.load(Ordering::SeqCst));
        self.slots.iter().all(|(slot, generation)| now(*slot) == Some(*generation))
    }

    fn add(&mut self, board: &Board, slot: Option<Slot>) {
        let Some((slot, generation)) = slot.and_then(|slot| Some((slot, board.generation(slot)?))) else {
            self.beyond = true;
            return;
        };
        if self.slots.iter().any(|(known, _)| *known == slot) {
            return;
        }
        self.beyond |= self.slots.len() == MOST_SLOTS;
        self.slots.push((slot, generation.load(Ordering::SeqCst)));
    }
}

impl Board {
    /// The one of this process, made of a file with room for it.
    pub(super) fn make(file: BorrowedFd<'_>) -> Result<&'static Self, Errno> {
        let memory = SharedMemory::map(file, GENERATIONS + ENTRIES * ENTRY_WORDS)?;
        Ok(BOARD.get_or_init(|| Board { memory, writer: Mutex::new(()) }))
    }

    fn generation(&self, slot: Slot) -> Option<&AtomicU32> {
        self.memory.words().get(..GENERATIONS)?.get(slot as usize)
    }

    fn entry(&self, index: usize) -> Option<&[AtomicU32]> {
        let start = GENERATIONS + index * ENTRY_WORDS;
        self.memory.words().get(start..start + ENTRY_WORDS)
    }

    /// Has processes of this view find the error by themselves.
    pub(super) fn put(&self, view: u32, class: Class, path: &[u8], searched: &Searched, error: Errno) {
        if path.is_empty() || path.len() > LONGEST || searched.slots.len() > MOST_SLOTS {
            return;
        }
        let hash = hash(view, class, path);
        let index = ((hash ^ hash >> 32) as usize) & (ENTRIES - 1);
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // That which holds no longer, or the first.
        let stale = [index, index ^ 1].into_iter().find(|index| !self.holds(*index));
        let Some(entry) = self.entry(stale.unwrap_or(index)) else { return };
        let [error, length] = [error.raw_os_error() as u32, path.len() as u32];
        let set = |at: usize, word: u32| {
            if let Some(room) = entry.get(at) {
                // Not before that which came before.
                room.store(word, Ordering::Release);
            }
        };
        let sequence = entry.get(SEQUENCE).map_or(0, |sequence| sequence.load(Ordering::Relaxed));
        set(SEQUENCE, sequence | 1);
        set(ERROR_AND_LENGTH, error | length << 16);
        set(HASH, hash as u32);
        set(HASH + 1, (hash >> 32) as u32);
        set(VIEW, view);
        set(CLASS, class.number());
        set(SLOT_COUNT, searched.slots.len() as u32);
        for (index, (slot, generation)) in searched.slots.iter().enumerate() {
            set(SLOTS + 2 * index, *slot);
            set(SLOTS + 2 * index + 1, *generation);
        }
        for (index, bytes) in path.chunks(4).enumerate() {
            let mut word = [0; 4];
            word[..bytes.len()].copy_from_slice(bytes);
            set(PATH + index, u32::from_le_bytes(word));
        }
        set(SEQUENCE, (sequence | 1).wrapping_add(1));
    }

    /// Whether the generations of an entry are those of the present.
    fn holds(&self, index: usize) -> bool {
        let Some(entry) = self.entry(index) else { return false };
        let word = |at: usize| entry.get(at).map_or(0, |word| word.load(Ordering::Relaxed));
        let now = |slot: u32| self.generation(slot).map(|generation| generation.load(Ordering::Relaxed));
        word(VIEW) != 0
            && (0..word(SLOT_COUNT) as usize).all(|at| now(word(SLOTS + 2 * at)) == Some(word(SLOTS + 2 * at + 1)))
    }
}

/// As the code does it.
fn hash(view: u32, class: Class, path: &[u8]) -> u64 {
    let start = (HASH_START ^ (u64::from(view) << 2 | u64::from(class.number()))).wrapping_mul(HASH_FACTOR);
    path.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(HASH_FACTOR))
}
