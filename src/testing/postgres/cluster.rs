//! A server of PostgreSQL with its data.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use super::disk::Disk;
use super::home::{Home, children, free_port, program, signal};
use super::plan::ClusterPlan;

/// The one role, which may do everything.
pub(super) const ROLE: &str = "palisade";
/// The longest that a server may take to start; a bound against hanging, never a measurement.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a server says when it takes connections, a standby among them.
const SERVES: [&str; 2] = ["ready to accept connections", "ready to accept read-only connections"];
/// Lines of the log that are kept.
const KEPT: usize = 10_000;

/// A throwaway server of PostgreSQL on 127.0.0.1. It ends at once, without a shutdown, when it is dropped.
pub struct Cluster {
    plan: ClusterPlan,
    folder: PathBuf,
    port: u16,
    log: Arc<Mutex<VecDeque<String>>>,
    server: Mutex<Option<Server>>,
    databases: AtomicU32,
    disk: Option<Disk>,
}

/// The processes of a cluster.
struct Server {
    postmaster: Child,
    /// Reads the log, and ends when the last of the processes has ended.
    reader: JoinHandle<()>,
}

/// A fresh database of a cluster.
#[derive(Clone, Debug)]
pub struct Database {
    pub name: String,
    /// Where its server listens.
    pub address: SocketAddr,
    folder: PathBuf,
}

impl Cluster {
    /// Starts one with what makes it fast.
    ///
    /// # Panics
    /// When PostgreSQL is not installed or does not start.
    pub fn start() -> Cluster {
        Cluster::plan().start()
    }

    /// What to start one with.
    pub fn plan() -> ClusterPlan {
        ClusterPlan::default()
    }

    /// The cluster that the tests of this process share. A test that stops, pauses or fills one starts its own.
    pub fn shared() -> &'static Cluster {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        // It has hundreds of databases, which live for seconds each.
        let plan = Cluster::plan().set("max_connections", "500").set("autovacuum", "off");
        SHARED.get_or_init(|| plan.start())
    }

    pub(super) fn of(plan: ClusterPlan) -> Cluster {
        let home = Home::get();
        let folder = home.folder();
        let data = folder.join("data");
        let disk = plan.disk.map(|megabytes| Disk::at(&data, megabytes));
        let source = template().join(".");
        let copied = home.command(Path::new("cp")).arg("-R").arg("-p").arg(source).arg(&data).output();
        let copied = copied.unwrap();
        assert!(copied.status.success(), "{copied:?}");
        Cluster::in_folder(plan, folder, disk)
    }

    fn in_folder(plan: ClusterPlan, folder: PathBuf, disk: Option<Disk>) -> Cluster {
        let data = folder.join("data");
        let hba = data.join("pg_hba.conf");
        let trusting = fs::read_to_string(&hba).unwrap();
        fs::write(&hba, plan.hba.join("\n") + "\n" + &trusting).unwrap();
        for (name, text) in &plan.files {
            let file = data.join(name);
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            Home::get().give(&file);
        }
        let mut cluster = Cluster {
            plan,
            folder,
            port: free_port(),
            log: Arc::default(),
            server: Mutex::new(None),
            databases: AtomicU32::new(0),
            disk,
        };
        let end = Instant::now() + PATIENCE;
        while let Err(why) = cluster.launch() {
            // Another process may have taken the port.
            assert!(Instant::now() < end && why.contains("Address already in use"), "{why}");
            cluster.port = free_port();
        }
        cluster
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// The folder of its data.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The latest lines of its log.
    pub fn log(&self) -> String {
        let lines = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().fold(String::new(), |text, line| text + line + "\n")
    }

    /// A fresh database.
    pub async fn database(&self) -> Database {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let sql = format!("CREATE DATABASE {name} TEMPLATE template0");
        self.database_named("postgres").client().await.batch_execute(&sql).await.unwrap();
        self.database_named(&name)
    }

    /// A database that is there already, such as `postgres`, or one of the cluster that this is a standby of.
    pub fn database_named(&self, name: &str) -> Database {
        Database { name: name.to_owned(), address: self.address(), folder: self.folder.clone() }
    }

    /// Starts another server that follows this one. It is asynchronous unless `synchronous_standby_names` here names
    /// `name`.
    pub fn standby(&self, name: &str) -> Cluster {
        let home = Home::get();
        let folder = home.folder();
        let source =
            format!("host={} port={} user={ROLE} application_name={name}", self.folder.display(), self.port);
        let mut command = home.command(&program("pg_basebackup"));
        command.args(["--write-recovery-conf", "--no-sync", "--checkpoint=fast", "--dbname", &source]);
        let copied = command.arg("--pgdata").arg(folder.join("data")).output().unwrap();
        assert!(copied.status.success(), "{copied:?}");
        // What its primary waits for is not its own to wait for.
        let mut plan = self.plan.clone();
        plan.settings.retain(|(setting, _)| setting != "synchronous_standby_names");
        plan.hba.clear();
        plan.disk = None;
        Cluster::in_folder(plan, folder, None)
    }

    /// Makes a standby a server of its own.
    pub async fn promote(&self) {
        let client = self.database_named("postgres").client().await;
        client.batch_execute("SELECT pg_promote()").await.unwrap();
    }

    /// Ends every process of the server at once (SIGKILL).
    pub fn kill(&self) {
        let Some(mut server) = self.server().take() else { return };
        let id = server.postmaster.id();
        // A stopped postmaster starts no further process.
        signal("STOP", &[id]);
        let children = children(id);
        signal("KILL", &children);
        server.postmaster.kill().unwrap();
        server.postmaster.wait().unwrap();
        server.reader.join().unwrap();
        // The guardian must not meet a number that is another process by now.
        let _ = fs::remove_file(self.data().join("postmaster.pid"));
    }

    /// Whether its server has not ended by itself.
    pub fn runs(&self) -> bool {
        self.server().as_mut().is_some_and(|server| matches!(server.postmaster.try_wait(), Ok(None)))
    }

    /// Ends it as an operator would: connections are closed, and what was written is kept.
    pub fn stop(&self) {
        let Some(mut server) = self.server().take() else { return };
        signal("INT", &[server.postmaster.id()]);
        server.postmaster.wait().unwrap();
        server.reader.join().unwrap();
    }

    /// Starts it again on the same port after [`kill`](Cluster::kill) or [`stop`](Cluster::stop); a server that runs is
    /// stopped before.
    pub fn restart(&self) {
        self.stop();
        let end = Instant::now() + PATIENCE;
        while let Err(why) = self.launch() {
            assert!(Instant::now() < end && why.contains("Address already in use"), "{why}");
        }
    }

    /// Stops every process of the server where it is (SIGSTOP), until [`resume`](Cluster::resume): its connections stay
    /// open, and nothing answers.
    pub fn pause(&self) {
        let id = self.postmaster();
        signal("STOP", &[id]);
        signal("STOP", &children(id));
    }

    /// Lets a paused server go on (SIGCONT).
    pub fn resume(&self) {
        let id = self.postmaster();
        signal("CONT", &children(id));
        signal("CONT", &[id]);
    }

    fn postmaster(&self) -> u32 {
        self.server().as_ref().expect("the server does not run").postmaster.id()
    }

    fn server(&self) -> MutexGuard<'_, Option<Server>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the server and waits until it takes connections.
    fn launch(&self) -> Result<(), String> {
        let mut command = Home::get().command(&program("postgres"));
        command.arg("-D").arg(self.data()).arg("-k").arg(&self.folder);
        command.args(["-p", &self.port.to_string()]);
        let fast = ["fsync=off", "full_page_writes=off", "listen_addresses=127.0.0.1", "shared_buffers=32MB"];
        for setting in fast {
            command.args(["-c", setting]);
        }
        // The last one counts.
        for (name, value) in &self.plan.settings {
            command.args(["-c", &format!("{name}={value}")]);
        }
        let mut postmaster = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(postmaster.stderr.take().unwrap()).lines();
        let (told, said) = mpsc::channel();
        let log = Arc::clone(&self.log);
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut kept = log.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == KEPT {
                    kept.pop_front();
                }
                kept.push_back(line.clone());
                drop(told.send(line));
            }
        });
        match serves(&said) {
            Ok(()) => {
                *self.server() = Some(Server { postmaster, reader });
                Ok(())
            }
            Err(why) => {
                let _ = postmaster.kill();
                postmaster.wait().unwrap();
                reader.join().unwrap();
                Err(why)
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill();
        drop(self.disk.take());
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Waits until the server takes connections; what it said where it does not.
fn serves(said: &Receiver<String>) -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    let mut log = String::new();
    loop {
        match said.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                log += &(line + "\n");
                if SERVES.iter().any(|words| log.contains(words)) {
                    return Ok(());
                }
            }
            Err(RecvTimeoutError::Disconnected) => return Err(format!("postgres ended: {log}")),
            Err(RecvTimeoutError::Timeout) => return Err(format!("postgres did not start: {log}")),
        }
    }
}

/// The data of a new cluster, made once and copied for each.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let home = Home::get();
        let data = home.folder().join("template");
        let mut command: Command = home.command(&program("initdb"));
        command.args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username", ROLE]);
        let made = command.arg("--pgdata").arg(&data).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        data
    })
}

impl Database {
    /// Its URL, by TCP.
    pub fn url(&self) -> String {
        self.url_at(self.address)
    }

    /// Its URL at another address, that of a [`Wire`](super::Wire) or a [`Pooler`](super::Pooler).
    pub fn url_at(&self, address: SocketAddr) -> String {
        format!("postgres://{ROLE}@{address}/{}", self.name)
    }

    /// Its URL by the server's Unix socket.
    pub fn socket_url(&self) -> String {
        let folder = self.folder.display().to_string().replace('/', "%2F");
        format!("postgres://{ROLE}@{folder}:{}/{}", self.address.port(), self.name)
    }

    /// A connection of the test's own.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn client(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url(), NoTls).await.unwrap();
        // Ends with an error when the server is killed, as tests do.
        tokio::spawn(async { drop(connection.await) });
        client
    }
}
