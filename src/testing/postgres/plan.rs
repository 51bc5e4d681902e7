//! What a cluster is started with.

use super::cluster::Cluster;

/// What a cluster is started with beside what makes it fast: `fsync` and `full_page_writes` are off unless set here.
#[derive(Clone, Debug, Default)]
pub struct ClusterPlan {
    pub(super) settings: Vec<(String, String)>,
    pub(super) hba: Vec<String>,
    pub(super) files: Vec<(String, String)>,
    pub(super) disk: Option<u32>,
}

impl ClusterPlan {
    /// A setting of `postgresql.conf`, such as `fsync`.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> ClusterPlan {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A line of `pg_hba.conf`, before those that trust every local connection.
    #[must_use]
    pub fn hba(mut self, line: &str) -> ClusterPlan {
        self.hba.push(line.to_owned());
        self
    }

    /// A file in the folder of the data that only the server can read, such as `server.key`.
    #[must_use]
    pub fn file(mut self, name: &str, text: &str) -> ClusterPlan {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    /// Puts its data on a disk of its own of so many megabytes, where [`can_mount`](super::can_mount) says that this can be.
    #[must_use]
    pub fn disk(self, megabytes: u32) -> ClusterPlan {
        ClusterPlan { disk: Some(megabytes), ..self }
    }

    /// Starts the cluster. Blocks for about a second the first time, and for a fifth of that afterwards.
    ///
    /// # Panics
    /// When PostgreSQL is not installed or does not start.
    pub fn start(self) -> Cluster {
        Cluster::of(self)
    }
}
