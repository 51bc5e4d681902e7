//! PgBouncer in front of a cluster.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use super::cluster::{Cluster, Database, ROLE};
use super::home::{Home, free_port, program};

/// PgBouncer in transaction mode on 127.0.0.1: two transactions of one client may run on two connections of the
/// server. Ends when it is dropped.
pub struct Pooler {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
    folder: PathBuf,
}

impl Pooler {
    /// Starts one in front of `cluster`, with at most `connections` to each of its databases.
    ///
    /// # Panics
    /// When PgBouncer is not installed or does not start.
    pub fn before(cluster: &Cluster, connections: u32) -> Pooler {
        let home = Home::get();
        let folder = home.folder();
        // Another process may take the port before PgBouncer does.
        let mut said = String::new();
        for _ in 0..5 {
            let port = free_port();
            let file = folder.join("pgbouncer.ini");
            // No `max_prepared_statements`: version 1.18, which Debian 12 has, does not know it.
            let text = format!(
                "[databases]\n* = host=127.0.0.1 port={} user={ROLE}\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
                 auth_type = any\npool_mode = transaction\ndefault_pool_size = {connections}\n\
                 max_client_conn = 1000\npidfile = {}\n",
                cluster.address().port(),
                folder.join("pooler.pid").display(),
            );
            fs::write(&file, text).unwrap();
            let mut command = home.command(&program("pgbouncer"));
            let mut child = command.arg(&file).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
            let serves = lines.any(|line| {
                said += &(line + "\n");
                said.contains("process up")
            });
            if serves {
                // Reads on, so that the program never waits for us.
                std::thread::spawn(move || lines.for_each(drop));
                return Pooler { address: SocketAddr::from(([127, 0, 0, 1], port)), child, folder };
            }
            child.wait().unwrap();
        }
        panic!("pgbouncer did not start: {said}");
    }

    /// The URL of a database through it.
    pub fn url(&self, database: &Database) -> String {
        database.url_at(self.address)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
