//! Go's `sort.Slice`, which is not stable: which of several equal elements comes first shows in what Docker prints.
//!
//! Go sorts by pattern-defeating quicksort (since release 1.19), whose steps depend on the elements alone; any slice of up
//! to twelve elements is in effect sorted stably.

/// Sorts by `less` into the very order that Go's `sort.Slice` gives.
pub(crate) fn sort_by<T>(items: &mut [T], less: impl Fn(&T, &T) -> bool) {
    let limit = bits(items.len());
    let end = items.len();
    Sorter { items, less }.quicksort(0, end, limit);
}

/// Digits of a number in binary.
fn bits(number: usize) -> u32 {
    usize::BITS - number.leading_zeros()
}

const INSERTION: usize = 12;
const NINTHER: usize = 50;
const MOST_SWAPS: u32 = 12;

/// What the elements looked at for a pivot say of the order.
#[derive(Clone, Copy, PartialEq)]
enum Hint {
    Increasing,
    Decreasing,
    Unknown,
}

struct Sorter<'a, T, F> {
    items: &'a mut [T],
    less: F,
}

impl<T, F: Fn(&T, &T) -> bool> Sorter<'_, T, F> {
    fn less(&self, a: usize, b: usize) -> bool {
        match (self.items.get(a), self.items.get(b)) {
            (Some(a), Some(b)) => (self.less)(a, b),
            _ => false,
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.items.swap(a, b);
    }

    fn quicksort(&mut self, mut start: usize, mut end: usize, mut limit: u32) {
        let (mut was_balanced, mut was_partitioned) = (true, true);
        loop {
            let length = end - start;
            if length <= INSERTION {
                return self.insertion(start, end);
            }
            if limit == 0 {
                return self.heapsort(start, end);
            }
            if !was_balanced {
                self.break_patterns(start, end);
                limit -= 1;
            }
            let (mut pivot, mut hint) = self.pivot(start, end);
            if hint == Hint::Decreasing {
                self.items[start..end].reverse();
                pivot = (end - 1) - (pivot - start);
                hint = Hint::Increasing;
            }
            if was_balanced && was_partitioned && hint == Hint::Increasing && self.nearly_sorted(start, end) {
                return;
            }
            // What lies before is no greater than anything here: equal elements are set apart.
            if start > 0 && !self.less(start - 1, pivot) {
                start = self.partition_equal(start, end, pivot);
                continue;
            }
            let (middle, partitioned) = self.partition(start, end, pivot);
            was_partitioned = partitioned;
            let (left, right) = (middle - start, end - middle);
            was_balanced = left.min(right) >= length / 8;
            if left < right {
                self.quicksort(start, middle, limit);
                start = middle + 1;
            } else {
                self.quicksort(middle + 1, end, limit);
                end = middle;
            }
        }
    }

    fn insertion(&mut self, start: usize, end: usize) {
        for i in start + 1..end {
            let mut j = i;
            while j > start && self.less(j, j - 1) {
                self.swap(j, j - 1);
                j -= 1;
            }
        }
    }

    fn heapsort(&mut self, start: usize, end: usize) {
        let length = end - start;
        for root in (0..length.div_ceil(2)).rev() {
            self.sift_down(start, root, length);
        }
        for last in (0..length).rev() {
            self.swap(start, start + last);
            self.sift_down(start, 0, last);
        }
    }

    fn sift_down(&mut self, start: usize, mut root: usize, end: usize) {
        loop {
            let mut child = 2 * root + 1;
            if child >= end {
                return;
            }
            if child + 1 < end && self.less(start + child, start + child + 1) {
                child += 1;
            }
            if !self.less(start + root, start + child) {
                return;
            }
            self.swap(start + root, start + child);
            root = child;
        }
    }

    /// Moves three elements of the middle to places drawn from the length.
    fn break_patterns(&mut self, start: usize, end: usize) {
        let length = end - start;
        let mut random = length as u64;
        let mask = (1 << bits(length)) - 1;
        let middle = start + length / 4 * 2 - 1;
        for i in 0..3 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let mut other = random as usize & mask;
            if other >= length {
                other -= length;
            }
            self.swap(middle - 1 + i, start + other);
        }
    }

    fn pivot(&self, start: usize, end: usize) -> (usize, Hint) {
        let quarter = (end - start) / 4;
        let (mut i, mut j, mut k) = (start + quarter, start + quarter * 2, start + quarter * 3);
        let mut swaps = 0;
        if end - start >= NINTHER {
            for place in [&mut i, &mut j, &mut k] {
                *place = self.median(*place - 1, *place, *place + 1, &mut swaps);
            }
        }
        j = self.median(i, j, k, &mut swaps);
        let hint = match swaps {
            0 => Hint::Increasing,
            MOST_SWAPS => Hint::Decreasing,
            _ => Hint::Unknown,
        };
        (j, hint)
    }

    fn median(&self, mut a: usize, mut b: usize, mut c: usize, swaps: &mut u32) -> usize {
        let mut order = |a: &mut usize, b: &mut usize| {
            if self.less(*b, *a) {
                *swaps += 1;
                std::mem::swap(a, b);
            }
        };
        order(&mut a, &mut b);
        order(&mut b, &mut c);
        order(&mut a, &mut b);
        b
    }

    /// Sorts what is all but sorted; false if it is not.
    fn nearly_sorted(&mut self, start: usize, end: usize) -> bool {
        const STEPS: usize = 5;
        const SHORTEST: usize = 50;
        let mut i = start + 1;
        for _ in 0..STEPS {
            while i < end && !self.less(i, i - 1) {
                i += 1;
            }
            if i == end {
                return true;
            }
            if end - start < SHORTEST {
                return false;
            }
            self.swap(i, i - 1);
            if i - start >= 2 {
                let mut j = i - 1;
                while j >= 1 && self.less(j, j - 1) {
                    self.swap(j, j - 1);
                    j -= 1;
                }
            }
            if end - i >= 2 {
                let mut j = i + 1;
                while j < end && self.less(j, j - 1) {
                    self.swap(j, j - 1);
                    j += 1;
                }
            }
        }
        false
    }

    /// Puts what is less than the pivot before it; where the pivot is then, and whether nothing had to be moved.
    fn partition(&mut self, start: usize, end: usize, pivot: usize) -> (usize, bool) {
        self.swap(start, pivot);
        // Both ends are exclusive of what is still to be looked at, but for `i`.
        let (mut i, mut j) = (start + 1, end);
        let mut moved = false;
        loop {
            while i < j && self.less(i, start) {
                i += 1;
            }
            while i < j && !self.less(j - 1, start) {
                j -= 1;
            }
            if i >= j {
                break;
            }
            moved = true;
            self.swap(i, j - 1);
            i += 1;
            j -= 1;
        }
        self.swap(j - 1, start);
        (j - 1, !moved)
    }

    /// Puts what equals the pivot, the least there is, before the rest; where the rest begins.
    fn partition_equal(&mut self, start: usize, end: usize, pivot: usize) -> usize {
        self.swap(start, pivot);
        let (mut i, mut j) = (start + 1, end);
        loop {
            while i < j && !self.less(start, i) {
                i += 1;
            }
            while i < j && self.less(start, j - 1) {
                j -= 1;
            }
            if i >= j {
                return i;
            }
            self.swap(i, j - 1);
            i += 1;
            j -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where each element was.
    fn order(keys: &[u32]) -> Vec<usize> {
        let mut items: Vec<(usize, u32)> = keys.iter().copied().enumerate().collect();
        sort_by(&mut items, |a, b| a.1 < b.1);
        assert!(items.is_sorted_by_key(|(_, key)| *key));
        items.into_iter().map(|(place, _)| place).collect()
    }

    #[test]
    fn as_docker_sorted_them() {
        // Lines of the warnings of a check, in the order in which Docker 28.5.2 found and in which it printed them.
        let lines = [8, 1, 1, 2, 13, 16, 2, 6, 20, 3, 4, 9, 11, 12, 16, 16, 16, 18, 19, 21, 23, 25, 25, 25, 25];
        let printed = [1, 2, 3, 6, 9, 10, 7, 0, 11, 12, 13, 4, 16, 5, 14, 15, 17, 18, 8, 19, 20, 21, 22, 23, 24];
        assert_eq!(order(&lines), printed);
        assert_eq!(order(&[2, 1, 1, 0, 1]), [3, 1, 2, 4, 0]);
        assert!(order(&[]).is_empty());
    }

    #[test]
    fn anything_is_sorted() {
        let mut random = 1u32;
        for length in 0..200 {
            for span in [1, 3, 1000] {
                let mut next = || {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (random >> 8) % span
                };
                let keys: Vec<u32> = (0..length).map(|_| next()).collect();
                assert_eq!(order(&keys).len(), keys.len());
                let mut sorted = keys.clone();
                sorted.sort_unstable();
                order(&sorted);
                sorted.reverse();
                order(&sorted);
            }
        }
        let mut items: Vec<u32> = (0..100).rev().collect();
        Sorter { items: &mut items, less: |a: &u32, b: &u32| a < b }.heapsort(0, 100);
        assert!(items.is_sorted());
    }
}
