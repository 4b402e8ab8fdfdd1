//! Arithmetic of majorities.

/// Whether `count` of `voters` are a majority. Of no voters there is none.
pub(crate) fn is_majority(count: usize, voters: usize) -> bool {
    count > voters / 2
}

/// The highest value that a majority has reached, given one value of each
/// voter; sorts them. `None` without voters.
pub(crate) fn reached(values: &mut [u64]) -> Option<u64> {
    values.sort_unstable_by(|a, b| b.cmp(a));
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{is_majority, reached};

    proptest! {
        /// Against the definition: the largest value for which the voters at
        /// or above it are a majority.
        #[test]
        fn equals_brute_force(values in prop::collection::vec(0_u64..20, 0..9)) {
            let expected = (0..20).rev().find(|&candidate| {
                let at_least = values.iter().filter(|&&value| value >= candidate).count();
                is_majority(at_least, values.len())
            });
            let mut values = values;
            prop_assert_eq!(reached(&mut values), expected);
        }

        /// Any two majorities share a voter.
        #[test]
        fn majorities_overlap(voters in 1_usize..16, a in 0_usize..16, b in 0_usize..16) {
            prop_assume!(is_majority(a, voters) && is_majority(b, voters));
            prop_assert!(a + b > voters);
        }

        /// So do a majority of one membership and one of the next, which has
        /// one voter more or less (dissertation, section 4.1).
        #[test]
        fn majorities_of_neighbours_overlap(voters in 1_usize..16, a in 0_usize..16, b in 0_usize..17) {
            prop_assume!(is_majority(a, voters) && is_majority(b, voters + 1));
            prop_assert!(a + b > voters + 1);
        }
    }
}
