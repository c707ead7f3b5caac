//! Prompts of random words that a tokenizer of English makes one token of each, and so does the
//! vocabulary of our made models.

use super::make_model::mix;

/// Short and common; those of `wharf bench` come first.
pub(super) const WORDS: &str = "\
    time year people way day man thing woman life child world school state family student group \
    country problem hand part place case week company system program question work government \
    number night point home water room mother area money story fact month lot right study book \
    eye job word business issue side kind head house service friend father power hour game line \
    end member law \
    the of and to in a is that for it as was with be by on not he his but at are this have from \
    or had an they which one you were all her she there would their we him been has when who \
    will no more if out so up said what its about than into them can only other";

/// `count` words. Prompts of different seeds differ from their first words on.
pub(super) fn prompt(seed: u64, count: usize) -> String {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let word = |at: u64| words[(mix(mix(seed) ^ at) % words.len() as u64) as usize];
    (0..count as u64).map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_differ_from_their_first_words_on() {
        let mut starts: Vec<String> = (0..100).map(|seed| prompt(seed, 8)).collect();
        starts.sort();
        starts.dedup();
        assert_eq!(starts.len(), 100);
        assert_eq!(prompt(7, 100).split(' ').count(), 100);
        assert_eq!(prompt(7, 100), prompt(7, 100));
    }
}
