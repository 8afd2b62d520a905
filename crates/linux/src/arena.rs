//! An allocator for programs that live a millisecond: the first blocks come
//! from a fixed piece of memory, without a system call.
//!
//! musl's allocator asks the kernel for each new size of block, and gives it
//! back with the last one: some thirty calls and as many page faults in the
//! life of a plugin, a tenth of its time.

#![expect(unsafe_code, reason = "an allocator hands out memory, which safe Rust cannot")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that [`Arena`] hands out before it asks the system. Pages that are
/// not reached are never real.
const SIZE: usize = 256 << 10;

/// Larger blocks are the system's at once: they would use the arena up, and
/// the system gives them back whole.
const LARGEST: usize = SIZE / 16;

/// What every block is aligned to at least, as malloc's are: nix reads control
/// messages in place, from a vector of bytes. No other block begins before a
/// multiple of it, so what is left up to there is the block's as well.
const ALIGN: usize = 16;

/// Of the lists of blocks: that there is none, and all bytes of an arena are zeros.
const NONE: usize = 0;

/// A global allocator: an arena of 256 KiB in front of the system's.
///
/// The last block shrinks and grows in place; another one that is given back is
/// used again for the next of its size.
// `memory` comes first and is aligned: an offset is as aligned as its address.
#[repr(C, align(4096))]
pub struct Arena {
    memory: UnsafeCell<[u8; SIZE]>,
    /// How much of `memory` is handed out: never more than [`SIZE`].
    used: AtomicUsize,
    /// For each multiple of [`ALIGN`], the blocks of that size that were given
    /// back, by [`mark`]; each begins with the next one's.
    free: [AtomicUsize; LARGEST / ALIGN],
}

// SAFETY: `memory` is only reached through pointers to blocks, and no two
// blocks that live at once share a byte: `used` changes by compare-exchange, and
// what is taken from a list of `free` was on it once, and is on none afterwards.
unsafe impl Sync for Arena {}

/// Bytes of a block, to its end.
fn room(size: usize) -> usize {
    size.next_multiple_of(ALIGN)
}

/// The offset of a block, told apart from [`NONE`].
fn mark(offset: usize) -> usize {
    offset + 1
}

impl Default for Arena {
    fn default() -> Arena {
        Arena::new()
    }
}

impl Arena {
    /// Nothing is handed out yet.
    pub const fn new() -> Arena {
        Arena {
            memory: UnsafeCell::new([0; SIZE]),
            used: AtomicUsize::new(0),
            free: [const { AtomicUsize::new(NONE) }; LARGEST / ALIGN],
        }
    }

    fn at(&self, offset: usize) -> *mut u8 {
        self.memory.get().cast::<u8>().wrapping_add(offset)
    }

    /// Where those of a block's size are; `None` for what is too large.
    fn list(&self, size: usize) -> Option<&AtomicUsize> {
        self.free.get((room(size) / ALIGN).wrapping_sub(1))
    }

    /// Gives a block that is in nobody's hands to the next who asks for its size.
    fn keep(&self, offset: usize, size: usize) {
        let Some(list) = self.list(size) else { return };
        let mut next = list.load(Ordering::Acquire);
        loop {
            // SAFETY: the block is aligned to 16 bytes and has at least as many,
            // and whoever gave it back must not read or write it any more.
            unsafe { self.at(offset).cast::<usize>().write(next) };
            match list.compare_exchange(next, mark(offset), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(other) => next = other,
            }
        }
    }

    /// A block of that size that was given back.
    fn reuse(&self, size: usize) -> Option<*mut u8> {
        let list = self.list(size)?;
        if list.load(Ordering::Relaxed) == NONE {
            return None;
        }
        // All of them, so that nobody else can take the first one meanwhile.
        let first = list.swap(NONE, Ordering::AcqRel);
        let block = self.at(first.checked_sub(mark(0))?);
        // SAFETY: `keep` has written it there, and the block is on no list.
        let rest = unsafe { block.cast::<usize>().read() };
        // Where another thread has begun a new list by now, they are lost.
        let _ = list.compare_exchange(NONE, rest, Ordering::AcqRel, Ordering::Acquire);
        Some(block)
    }

    /// Where in the arena `block` starts, if it is the arena's.
    fn offset_of(&self, block: *mut u8) -> Option<usize> {
        let offset = block.addr().wrapping_sub(self.memory.get().addr());
        (offset < SIZE).then_some(offset)
    }

    /// Moves the end of what is used, if it is at `from`.
    fn move_end(&self, from: usize, to: usize) -> bool {
        self.used.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn reserve(&self, layout: Layout) -> Option<*mut u8> {
        if layout.size() > LARGEST || layout.align() > 4096 {
            return None;
        }
        if layout.align() <= ALIGN
            && let Some(block) = self.reuse(layout.size())
        {
            return Some(block);
        }
        loop {
            let used = self.used.load(Ordering::Acquire);
            let start = used.next_multiple_of(layout.align().max(ALIGN));
            let end = start + layout.size();
            if end > SIZE {
                return None;
            }
            if self.move_end(used, end) {
                return Some(self.at(start));
            }
        }
    }
}

// SAFETY: a block of the arena lies in `memory`, as aligned as asked (the
// arena is aligned to a page and `start` to the layout), and `reserve` gave its bytes
// to nobody else; it stays until `dealloc`, where its bytes are given out again
// as the end of the arena, if no later block follows, or as a block of their own,
// but never both: a block on a list is in front of `used`, which goes back only
// to where a block begins that was not on one. Every other block is the system's from birth
// to death, told apart by its address. Never inlined: the callers are thousands.
unsafe impl GlobalAlloc for Arena {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.reserve(layout) {
            Some(block) => block,
            // SAFETY: the caller's promises are those that the system needs.
            None => unsafe { System.alloc(layout) },
        }
    }

    #[inline(never)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(block) = self.reserve(layout) else {
            // The kernel's pages are zeros, and are not real before they are used.
            // SAFETY: the caller's promises are those that the system needs.
            return unsafe { System.alloc_zeroed(layout) };
        };
        // It may have been used before.
        // SAFETY: the block is as long as its layout says, and nobody else's.
        unsafe { block.write_bytes(0, layout.size()) };
        block
    }

    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match self.offset_of(block) {
            Some(start) if self.move_end(start + layout.size(), start) => {}
            Some(start) => self.keep(start, layout.size()),
            // SAFETY: not ours, so `alloc` or `realloc` had it of the system.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    #[inline(never)]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(start) = self.offset_of(block) else {
            // SAFETY: not ours, so `alloc` or `realloc` had it of the system.
            return unsafe { System.realloc(block, layout, size) };
        };
        let end = start + size;
        let was_last = size <= LARGEST && end <= SIZE && self.move_end(start + layout.size(), end);
        // What a block in the middle gives up is lost: it is never taken for the
        // last one, whose end is behind all that it ever had.
        if was_last || size <= room(layout.size()) {
            return block;
        }
        // SAFETY: `GlobalAlloc::realloc` promises that `size`, rounded up to the
        // alignment, does not overflow; the alignment is that of a layout.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: `size` is not zero, by the same promise.
        let moved = unsafe { self.alloc(wanted) };
        if !moved.is_null() {
            // SAFETY: both blocks are at least this long, and they are two: the
            // old one is not given back before the copy is made.
            unsafe { ptr::copy_nonoverlapping(block, moved, layout.size().min(size)) };
            // SAFETY: `block` was allocated here with `layout`, says the caller.
            unsafe { self.dealloc(block, layout) };
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn the_last_block_grows_in_place_and_is_used_again() {
        let arena = Arena::new();
        // SAFETY: every layout is that of its block and has a size.
        unsafe {
            let first = arena.alloc(layout(10, 1));
            let last = arena.alloc(layout(8, 8));
            assert_eq!(arena.offset_of(last), Some(16));
            assert_eq!(arena.realloc(last, layout(8, 8), 100), last);
            assert_ne!(arena.realloc(first, layout(10, 1), 20), first);
            assert_eq!(arena.used.load(Ordering::Acquire), 148);
        }
    }

    #[test]
    fn a_block_that_shrinks_stays_where_it_is() {
        let arena = Arena::new();
        // SAFETY: every layout is that of its block and has a size.
        unsafe {
            let first = arena.alloc(layout(100, 1));
            let last = arena.alloc(layout(100, 1));
            assert_eq!(arena.realloc(first, layout(100, 1), 10), first);
            assert_eq!(arena.used.load(Ordering::Acquire), 212);
            assert_eq!(arena.realloc(last, layout(100, 1), 10), last);
            assert_eq!(arena.used.load(Ordering::Acquire), 122);
            // The end is not taken for that of the first.
            arena.dealloc(last, layout(10, 1));
            arena.dealloc(first, layout(10, 1));
            assert_eq!(arena.used.load(Ordering::Acquire), 112);
        }
    }

    #[test]
    fn a_block_in_the_middle_is_used_again_for_its_size() {
        let arena = Arena::new();
        // SAFETY: every layout is that of its block and has a size.
        unsafe {
            let blocks = [(); 3].map(|()| arena.alloc(layout(40, 8)));
            let last = arena.alloc(layout(8, 8));
            let used = arena.used.load(Ordering::Acquire);
            for block in blocks {
                arena.dealloc(block, layout(40, 8));
            }
            assert!(!blocks.contains(&arena.alloc(layout(30, 8))), "less room");
            assert!(!blocks.contains(&arena.alloc(layout(48, 64))), "aligned to 16 bytes only");
            for block in blocks.iter().rev() {
                assert_eq!(arena.alloc(layout(48, 16)), *block);
            }
            assert_ne!(arena.alloc(layout(48, 16)), last);
            assert!(arena.used.load(Ordering::Acquire) > used);
        }
    }

    #[test]
    fn zeros_are_zeros_also_where_something_was() {
        let arena = Arena::new();
        // SAFETY: every layout is that of its block and has a size.
        unsafe {
            let used = arena.alloc(layout(64, 8));
            used.write_bytes(7, 64);
            arena.dealloc(used, layout(64, 8));
            let zeroed = arena.alloc_zeroed(layout(64, 8));
            assert_eq!(zeroed, used);
            assert!(std::slice::from_raw_parts(zeroed, 64).iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn large_zeros_are_not_real_before_they_are_used() {
        const MIB: usize = 1 << 20;
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
        };
        let arena = Arena::new();
        let before = resident();
        // SAFETY: every layout is that of its block and has a size.
        unsafe {
            let large = arena.alloc_zeroed(layout(256 * MIB, 1));
            assert!(!large.is_null() && arena.offset_of(large).is_none());
            assert!(resident() < before + 128 * MIB, "the other tests need less");
            arena.dealloc(large, layout(256 * MIB, 1));
        }
    }

    #[test]
    fn what_does_not_fit_is_the_systems() {
        let arena = Arena::new();
        // SAFETY: every layout is that of its block and has a size.
        unsafe {
            let large = arena.alloc(layout(LARGEST + 1, 1));
            assert_eq!(arena.offset_of(large), None);
            arena.dealloc(large, layout(LARGEST + 1, 1));
            for _ in 0..SIZE / LARGEST {
                assert!(arena.offset_of(arena.alloc(layout(LARGEST, 1))).is_some());
            }
            let over = arena.alloc(layout(1, 1));
            assert_eq!(arena.offset_of(over), None);
            arena.dealloc(over, layout(1, 1));
        }
    }

    #[test]
    fn callers_at_once_never_share_a_byte() {
        let arena = Arena::new();
        std::thread::scope(|scope| {
            for mark in 1..=4u8 {
                let arena = &arena;
                scope.spawn(move || {
                    for round in 1..2000 {
                        let layout = layout(1 + round % 64, 1 << (round % 4));
                        // SAFETY: the block is as long as its layout says.
                        unsafe {
                            let block = arena.alloc(layout);
                            block.write_bytes(mark, layout.size());
                            std::thread::yield_now();
                            let bytes = std::slice::from_raw_parts(block, layout.size());
                            assert!(bytes.iter().all(|byte| *byte == mark));
                            arena.dealloc(block, layout);
                        }
                    }
                });
            }
        });
    }

    proptest! {
        #[test]
        fn blocks_keep_what_was_written(steps in prop::collection::vec(
            (0..8usize, 1..20_000usize, 0..5u32), 1..60,
        )) {
            let arena = Arena::new();
            let mut live: HashMap<usize, (*mut u8, Layout)> = HashMap::new();
            let intact = |slot: usize, block: *mut u8, size: usize| {
                // SAFETY: the block lives and is at least `size` bytes long.
                let bytes = unsafe { std::slice::from_raw_parts(block, size) };
                bytes.iter().all(|byte| usize::from(*byte) == slot)
            };
            for (slot, size, align) in steps {
                let block = match live.remove(&slot) {
                    None => {
                        let layout = layout(size, 1 << align);
                        // SAFETY: the size is not zero.
                        let block = unsafe {
                            if size % 3 == 0 { arena.alloc_zeroed(layout) } else { arena.alloc(layout) }
                        };
                        if size % 3 == 0 {
                            // SAFETY: the block is as long as its layout says.
                            let bytes = unsafe { std::slice::from_raw_parts(block, size) };
                            prop_assert!(bytes.iter().all(|byte| *byte == 0));
                        }
                        prop_assert_eq!(block.addr() % layout.align(), 0);
                        (block, layout)
                    }
                    Some((block, old)) if size % 2 == 0 => {
                        // SAFETY: `old` is the block's layout; the size is not zero.
                        let moved = unsafe { arena.realloc(block, old, size) };
                        prop_assert!(intact(slot, moved, old.size().min(size)));
                        if size <= old.size() && arena.offset_of(block).is_some() {
                            prop_assert_eq!(moved, block);
                        }
                        (moved, layout(size, old.align()))
                    }
                    Some((block, old)) => {
                        prop_assert!(intact(slot, block, old.size()));
                        // SAFETY: `old` is the block's layout.
                        unsafe { arena.dealloc(block, old) };
                        continue;
                    }
                };
                // SAFETY: the block is as long as its layout says.
                unsafe { block.0.write_bytes(slot as u8, block.1.size()) };
                live.insert(slot, block);
            }
            for (slot, (block, layout)) in live {
                prop_assert!(intact(slot, block, layout.size()));
                // SAFETY: `layout` is the block's.
                unsafe { arena.dealloc(block, layout) };
            }
        }
    }
}
