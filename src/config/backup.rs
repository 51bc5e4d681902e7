//! `[backup]`: what is kept beside the backups.

use std::path::PathBuf;

use super::file::Section;

/// `[backup]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupSettings {
    /// The folder of the journal of ends; `None`: none is kept.
    pub journal: Option<PathBuf>,
}

pub(super) fn backup(section: Section<'_>) -> BackupSettings {
    let journal = section.get("journal").and_then(|item| {
        item.read("a folder, such as \"/var/backups/palisade/ends\"", |text| {
            (!text.is_empty()).then(|| item.doc.resolve(text))
        })
    });
    section.close();
    BackupSettings { journal }
}
