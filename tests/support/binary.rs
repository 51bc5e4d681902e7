//! The real program, started on ports of its own choosing, which it tells on standard error.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;

use serde_json::Value;

use super::{PATIENCE, exchange};

/// What a gateway says last before it serves.
const SERVES: &str = "admin and metrics at";

/// The program that was built with this suite.
pub fn palisade() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_palisade"));
    command.env_remove("PALISADE_ADMIN_TOKEN").env_remove("PALISADE_CONFIG");
    command
}

/// Runs a command to its end with `input` on standard input.
pub fn run(command: &mut Command, input: &str) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Runs a gateway that must not start to its end, which is a failure; what it said on standard error.
pub fn refused(command: &mut Command) -> String {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut said, mut serves) = (String::new(), false);
    for line in BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok) {
        said += &(line + "\n");
        serves = said.contains(SERVES);
        if serves {
            child.kill().unwrap();
            break;
        }
    }
    let ended = child.wait().unwrap();
    assert!(!serves, "it has started: {said}");
    assert_eq!(ended.code(), Some(1), "{said}");
    said
}

/// A gateway in a process of its own. Dropping it kills the process.
pub struct Program {
    child: Child,
    pub listen: SocketAddr,
    pub tls: SocketAddr,
    pub admin: SocketAddr,
    folder: PathBuf,
    /// What it said until it served.
    pub began: String,
    /// What it says on standard error once it serves.
    said: mpsc::Receiver<String>,
}

impl Program {
    /// Runs the gateway of `folder/config.toml` and waits until it serves.
    pub fn start(folder: &Path) -> Program {
        let mut command = palisade();
        command.args(["run", "--config"]).arg(folder.join("config.toml"));
        Program::of(command, folder)
    }

    /// The same with more arguments.
    pub fn start_with(folder: &Path, arguments: &[&str]) -> Program {
        let mut command = palisade();
        command.arg("run").args(arguments).arg("--config").arg(folder.join("config.toml"));
        Program::of(command, folder)
    }

    /// The same under these limits of open files.
    pub fn start_within(folder: &Path, soft: u64, hard: u64) -> Program {
        let mut command = Command::new("sh");
        command.env_remove("PALISADE_ADMIN_TOKEN").env_remove("PALISADE_CONFIG");
        let script = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" run --config \"$1\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_palisade")]).arg(folder.join("config.toml"));
        Program::of(command, folder)
    }

    /// Runs the gateway of `folder/config.toml` and waits until it says this, which may be before it serves.
    pub fn start_until(folder: &Path, says: &str) -> Program {
        let mut command = palisade();
        command.args(["run", "--config"]).arg(folder.join("config.toml"));
        Program::of_until(command, folder, says)
    }

    fn of(command: Command, folder: &Path) -> Program {
        Program::of_until(command, folder, SERVES)
    }

    fn of_until(mut command: Command, folder: &Path, says: &str) -> Program {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (told, said) = mpsc::channel();
        // Reads on after the start, so that the program never waits for us.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(told.send(line))));
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut program = Program {
            child,
            listen: nowhere,
            tls: nowhere,
            admin: nowhere,
            folder: folder.to_owned(),
            said,
            began: String::new(),
        };
        let mut log = String::new();
        loop {
            let Ok(line) = program.said.recv_timeout(PATIENCE) else {
                panic!("the gateway did not start: {log}")
            };
            let address = || line.split_once("http://").unwrap().1.trim().parse().unwrap();
            if line.contains("serving http://") {
                program.listen = address();
            }
            if let Some((_, tls)) = line.split_once("serving https://") {
                program.tls = tls.trim().parse().unwrap();
            }
            if line.contains(SERVES) {
                program.admin = address();
            }
            let is_said = line.contains(says);
            log += &(line + "\n");
            if is_said {
                program.began = log;
                return program;
            }
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it SIGTERM.
    pub fn terminate(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    }

    /// Asks it to read its configuration again (SIGHUP).
    pub fn hang_up(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
    }

    /// What it says until a line holds `text`.
    pub fn until_it_says(&self, text: &str) -> String {
        let mut log = String::new();
        loop {
            let Ok(line) = self.said.recv_timeout(PATIENCE) else { panic!("it never said {text:?}: {log}") };
            log += &(line + "\n");
            if log.contains(text) {
                return log;
            }
        }
    }

    /// Waits until it has ended by itself.
    pub fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Ends it at once (SIGKILL).
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop (SIGTERM) and waits until it has.
    pub fn stop(self) -> ExitStatus {
        self.terminate();
        self.wait()
    }

    /// Ends it as [`Program::stop`] does; what it had said since the start.
    pub fn stop_and_tell(mut self) -> String {
        self.terminate();
        self.child.wait().unwrap();
        // Ends with the program's standard error.
        self.said.iter().collect::<Vec<_>>().join("\n")
    }

    pub async fn admin(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let credential = std::fs::read_to_string(self.folder.join("data/admin.token")).unwrap();
        super::admin(self.admin, &credential, method, path, body).await
    }

    /// The status of a `GET` with this token.
    pub async fn status(&self, path: &str, token: &str) -> u16 {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: app.test\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        super::status(&exchange(self.listen, request).await)
    }

    /// The answer of the admin listener to a `GET` without a credential.
    pub async fn probe(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.admin);
        exchange(self.admin, request).await
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> u64 {
        let text = self.probe("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().unwrap()
    }

    /// A command of the program about this gateway.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let file = self.folder.join("client.toml");
        let text = format!("server.admin = \"{}\"\nstore.url = \"sled:./data\"\n", self.admin);
        std::fs::write(&file, text).unwrap();
        run(palisade().args(arguments).arg("--config").arg(file), "")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
