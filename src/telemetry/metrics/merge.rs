//! Two texts as one: a family that both have is one group, as the format wants it.

use std::collections::BTreeMap;

/// What another process sent is not a text of metrics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    #[error("line {0} belongs to no family")]
    Astray(usize),
    #[error("line {0} begins a family that is there already")]
    Again(usize),
}

/// A family as it stands in a text: its two lines of comment, and its samples.
#[derive(Default)]
struct Group<'a> {
    head: Vec<&'a str>,
    samples: Vec<&'a str>,
}

/// The families of both texts, by name. What is said of a family in `own` holds for both; the samples of `other` follow.
///
/// # Errors
/// [`MergeError`]: `other` is not made as ours are, and nothing of it is to be used.
pub fn merge(own: &str, other: &str) -> Result<String, MergeError> {
    let mut families = groups(own)?;
    for (name, group) in groups(other)? {
        match families.get_mut(name) {
            Some(known) => known.samples.extend(group.samples),
            None => _ = families.insert(name, group),
        }
    }
    let mut text = String::with_capacity(own.len() + other.len());
    for line in families.into_values().flat_map(|group| group.head.into_iter().chain(group.samples)) {
        text.push_str(line);
        text.push('\n');
    }
    Ok(text)
}

fn groups(text: &str) -> Result<BTreeMap<&str, Group<'_>>, MergeError> {
    let mut groups: BTreeMap<&str, Group<'_>> = BTreeMap::new();
    let mut current = None;
    for (number, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line)) {
        let comment = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        if let Some(named) = comment {
            let name = named.split(' ').next().unwrap_or_default();
            if current != Some(name) {
                if groups.contains_key(name) {
                    return Err(MergeError::Again(number));
                }
                groups.insert(name, Group::default());
                current = Some(name);
            }
            groups.entry(name).or_default().head.push(line);
        } else {
            let name = current.filter(|name| line.starts_with(*name)).ok_or(MergeError::Astray(number))?;
            groups.entry(name).or_default().samples.push(line);
        }
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_of_both_is_one_group_and_others_are_kept() {
        let own = "# HELP b B.\n# TYPE b counter\nb{process=\"agent\"} 1\n# HELP a A.\n# TYPE a gauge\na 2\n";
        let other = "# HELP b Other.\n# TYPE b counter\nb{process=\"node\"} 3\n# HELP c C.\n# TYPE c gauge\nc 4\n";
        let both = "# HELP a A.\n# TYPE a gauge\na 2\n# HELP b B.\n# TYPE b counter\nb{process=\"agent\"} 1\nb{process=\"node\"} 3\n\
                    # HELP c C.\n# TYPE c gauge\nc 4\n";
        assert_eq!(merge(own, other).unwrap(), both);
        assert_eq!(merge(own, "").unwrap().lines().count(), own.lines().count());
    }

    #[test]
    fn what_is_no_text_of_metrics_is_refused() {
        assert_eq!(merge("", "a 1\n"), Err(MergeError::Astray(1)));
        assert_eq!(merge("", "# TYPE a gauge\na 1\nb 1\n"), Err(MergeError::Astray(3)));
        assert_eq!(merge("", "# TYPE a gauge\n# TYPE b gauge\n# TYPE a gauge\n"), Err(MergeError::Again(3)));
    }
}
