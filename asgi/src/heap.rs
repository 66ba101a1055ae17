//! What malloc does with blocks that are freed: kept while there is work, given back when there is none.

/// Blocks up to this size, in bytes, are kept when they are freed, and twice as much at the end of the heap.
const KEPT_BLOCK_BYTES: usize = 2 * 1024 * 1024;

/// Makes malloc keep the memory of large blocks that come and go, as request bodies do.
///
/// glibc gives a freed block above a threshold back to the system, and what is free at the end of the heap above twice the
/// threshold; the next block has to be mapped again, with a page fault for every 4 KB, which costs more than copying
/// the body. The threshold begins at 128 KB and grows to the largest block that was freed (mallopt(3), M_MMAP_THRESHOLD),
/// so one block that is never touched does it. `mallopt` would too, but then the threshold would not grow any more. Whoever
/// sets `MALLOC_TRIM_THRESHOLD_` or `MALLOC_MMAP_THRESHOLD_` has the last word; for other mallocs it means nothing.
pub fn keep_freed_blocks() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(KEPT_BLOCK_BYTES)));
}

/// Less than this, in bytes, is not worth giving back.
const WORTH_GIVING_BACK: u32 = 4 * 1024 * 1024;

/// Gives the memory that malloc has kept back to the system (malloc_trim(3)), for when there is nothing to do.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: mallinfo(3) and malloc_trim(3) take no pointers, and lock what they look at.
        let free = unsafe { libc::mallinfo() }.fordblks;
        // More than 2 GB comes as a negative number; of more than 4 GB, the rest.
        if free.cast_unsigned() > WORTH_GIVING_BACK {
            // SAFETY: as above.
            unsafe { libc::malloc_trim(0) };
        }
    }
}
