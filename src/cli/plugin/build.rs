//! `palisade plugin build`: from a project's sources to its component.

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use wit_component::ComponentEncoder;

use super::project::{Language, Project};
use super::toolchain::{Toolchain, on_path};
use super::{check, show};
use crate::cli::output::tell;

/// Where in a project a component is made, until it takes the place of the one before.
const WORKSHOP: &str = ".palisade";
/// The entry modules of JavaScript and Python plugins, which work around their toolchains.
const ENTRIES_JS: [(&str, &str); 2] =
    [("entry.js", include_str!("entries/entry.js")), ("missing.js", include_str!("entries/missing.js"))];
const ENTRIES_PYTHON: [(&str, &str); 1] = [("palisade_entry.py", include_str!("entries/palisade_entry.py"))];

/// The most that is shown of the beginning, and of the end, of what a failed tool said, in lines.
const SAID: usize = 30;

/// Builds the project in `folder` and says what came out.
///
/// # Errors
/// What is missing, or what the tools said.
pub(super) fn run(folder: &Path) -> Result<String, String> {
    let begun = Instant::now();
    let project = build(folder)?;
    // As the caller names it.
    let file = folder.join(format!("{}.wasm", project.name));
    let file = file.strip_prefix("./").map(Path::to_owned).unwrap_or(file);
    let bytes = read(&file)?;
    let report = check::examine(&bytes);
    Ok(format!(
        "{}: {}, {} in {:.1}s\nsha256 = \"{}\"\n\nNext: palisade plugin test{}",
        file.display(),
        show::size(bytes.len()),
        report.summary(),
        begun.elapsed().as_secs_f32(),
        show::sha256(&bytes),
        if folder == Path::new(".") { String::new() } else { format!(" {}", show::path(folder)) },
    ))
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))
}

/// Builds the project in `folder`; its component is new afterwards. One that no gateway would load replaces
/// nothing: the last good one stays.
///
/// # Errors
/// What is missing, what the tools said, or what is wrong with what they made.
fn build(folder: &Path) -> Result<Project, String> {
    // Some of the tools are run inside the folder.
    let folder =
        folder.canonicalize().map_err(|error| format!("{} cannot be read: {error}", folder.display()))?;
    let project = Project::open(&folder)?;
    let workshop = Workshop::open(&folder)?;
    let made = workshop.0.join("plugin.wasm");
    match project.language {
        Language::Rust => rust(&project, &made)?,
        Language::Js => js(&project, &workshop, &made)?,
        Language::Python => python(&project, &workshop, &made)?,
    }
    let file = project.component();
    if let Some(faults) = check::examine(&read(&made)?).faults_text(&file) {
        let kept = if file.exists() { "\nThe component from before is still there." } else { "" };
        return Err(format!("{faults}{kept}"));
    }
    fs::rename(&made, &file).map_err(|error| format!("{} cannot be written: {error}", file.display()))?;
    Ok(project)
}

/// A folder that is there while something is built.
struct Workshop(PathBuf);

impl Workshop {
    fn open(folder: &Path) -> Result<Workshop, String> {
        let workshop = Workshop(folder.join(WORKSHOP));
        let _ = fs::remove_dir_all(&workshop.0);
        fs::create_dir(&workshop.0)
            .map_err(|error| format!("{} cannot be made: {error}", workshop.0.display()))?;
        Ok(workshop)
    }

    fn put(&self, files: &[(&str, &str)]) -> Result<(), String> {
        let put = |(name, text): &(&str, &str)| fs::write(self.0.join(name), text);
        let done: std::io::Result<()> = files.iter().try_for_each(put);
        done.map_err(|error| format!("{} cannot be written: {error}", self.0.display()))
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // The next build clears it away.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn rust(project: &Project, made: &Path) -> Result<(), String> {
    let toolchain = Toolchain::find()?;
    let (mut command, core) = toolchain.build(&project.folder, &project.name);
    step(&format!("compiling with {}", toolchain.name()), &mut command, Say::All)?;
    let bytes = fs::read(&core).map_err(|error| {
        format!(
            "{} cannot be read: {error}; does Cargo.toml say `crate-type = [\"cdylib\"]`?",
            core.display()
        )
    })?;
    let encoder = ComponentEncoder::default().validate(true).module(&bytes);
    let component = encoder.and_then(|mut encoder| encoder.encode()).map_err(|error| {
        format!("the module cannot be made a component: {error:#}; {}", advice(&format!("{error:#}")))
    })?;
    fs::write(made, component).map_err(|error| format!("{} cannot be written: {error}", made.display()))
}

/// What to do about a module that is not taken.
fn advice(error: &str) -> &'static str {
    if error.contains("__wbindgen") {
        return "a crate of yours is built for browsers (chrono, uuid and getrandom can be): switch that feature of \
                it off. The time is `cx.now()`, and requests are made with `cx`";
    }
    "does the crate call `palisade_provider::register!`, and import nothing of its own?"
}

fn js(project: &Project, workshop: &Workshop, made: &Path) -> Result<(), String> {
    let folder = &project.folder;
    let (npm, node) = on_path("npm").zip(on_path("node")).ok_or(
        "building JavaScript needs Node.js 20 or later with npm:\n  Debian, Ubuntu  sudo apt-get install nodejs npm\n  \
         elsewhere       https://nodejs.org",
    )?;
    // It says where a slip is, which componentize-js does not.
    let mut command = Command::new(node);
    command.current_dir(folder).args(["--check", "plugin.js"]).stdin(Stdio::null());
    let read = command.output().map_err(|error| format!("node cannot be run: {error}"))?;
    if !read.status.success() {
        let said = String::from_utf8_lossy(&read.stderr);
        return Err(format!("plugin.js cannot be read:\n  {}", excerpt(said.trim_end()).join("\n  ")));
    }
    let tool = folder.join("node_modules/.bin/componentize-js");
    let installed = Installed::of(folder, "package.json", "node_modules/.palisade");
    if !tool.is_file() || installed.changed() {
        // Exactly what the lock says, once there is one that knows of everything.
        let locked = !tool.is_file() && folder.join("package-lock.json").is_file();
        let install = if locked { "ci" } else { "install" };
        let mut command = Command::new(npm);
        command.current_dir(folder).args([install, "--no-audit", "--no-fund", "--loglevel=error"]);
        step(&format!("npm {install}"), &mut command, Say::Failures)?;
        installed.note()?;
    }
    workshop.put(&ENTRIES_JS)?;
    let mut command = Command::new(&tool);
    command.current_dir(folder).arg(workshop.0.join(ENTRIES_JS[0].0));
    command.args(["--wit", "wit/provider.wit", "-n", "provider"]);
    // What a plugin does not have: without it the component asks for nothing that is not served. Randomness and
    // clocks it has: without them each call would see the same numbers, and the time would stand still. So has it
    // standard output: by it alone an author sees what was thrown.
    command.args(["-d", "http", "fetch-event"]);
    command.arg("-o").arg(made);
    step("componentize-js, about half a minute", &mut command, Say::Failures).map_err(at_the_top)
}

/// What to do about a module that asks for something while it is being built.
fn at_the_top(said: String) -> String {
    if !said.contains("Wizer initialization") {
        return said;
    }
    format!(
        "{said}\n\nWhat stands outside of functions runs once, when the component is built, and can ask for nothing \
         then: no randomness (`Math.random`, `crypto`) and no request. Move it into the function that needs it."
    )
}

fn python(project: &Project, workshop: &Workshop, made: &Path) -> Result<(), String> {
    let folder = &project.folder;
    let tool = folder.join(".venv/bin/componentize-py");
    let installed = Installed::of(folder, "requirements.txt", ".venv/.palisade");
    if !tool.is_file() {
        let python = on_path("python3").ok_or(
            "building Python needs Python 3.10 or later with venv:\n  Debian, Ubuntu  sudo apt-get install python3-venv\n  \
             elsewhere       https://www.python.org",
        )?;
        let mut command = Command::new(python);
        command.current_dir(folder).args(["-m", "venv", ".venv"]);
        step("python3 -m venv .venv, the first time", &mut command, Say::Failures)?;
    }
    if !tool.is_file() || installed.changed() {
        let mut command = Command::new(folder.join(".venv/bin/python"));
        command.current_dir(folder).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        command.args(["--requirement", "requirements.txt"]);
        step("pip install", &mut command, Say::Failures)?;
        installed.note()?;
    }
    workshop.put(&ENTRIES_PYTHON)?;
    let mut command = Command::new(&tool);
    // The packages that go into the component are those of requirements.txt, and not what this machine has.
    command.current_dir(folder).env("VIRTUAL_ENV", folder.join(".venv")).args([
        "-d",
        "wit",
        "-w",
        "provider",
        "componentize",
        "-p",
        WORKSHOP,
        "-p",
        ".",
        "palisade_entry",
    ]);
    command.arg("-o").arg(made);
    step("componentize-py, about half a minute", &mut command, Say::Failures)
}

/// What a list of dependencies said when they were installed. A folder that this command has not filled is left as
/// it is.
struct Installed {
    list: PathBuf,
    copy: PathBuf,
}

impl Installed {
    fn of(folder: &Path, list: &str, copy: &str) -> Installed {
        Installed { list: folder.join(list), copy: folder.join(copy) }
    }

    fn changed(&self) -> bool {
        fs::read(&self.copy).is_ok_and(|then| fs::read(&self.list).is_ok_and(|now| now != then))
    }

    fn note(&self) -> Result<(), String> {
        let copied = fs::copy(&self.list, &self.copy);
        copied.map(drop).map_err(|error| format!("{} cannot be written: {error}", self.copy.display()))
    }
}

/// How much of a tool's output is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Say {
    /// It shows its own progress.
    All,
    /// Only when it fails.
    Failures,
}

/// Runs one tool to its end, and shows that it is going on.
fn step(title: &str, command: &mut Command, say: Say) -> Result<(), String> {
    let program = Path::new(command.get_program()).display().to_string();
    let begun = Instant::now();
    let failed = |error: std::io::Error| format!("{program} cannot be run: {error}");
    // The message of a failed tool helps an author; its stack trace does not.
    command.stdin(Stdio::null()).env_remove("RUST_BACKTRACE").env_remove("RUST_LIB_BACKTRACE");
    if say == Say::All {
        tell(title);
        let status = command.stdout(Stdio::inherit()).stderr(Stdio::inherit()).status().map_err(failed)?;
        return if status.success() {
            Ok(())
        } else {
            Err(format!("{program} failed ({status}); it said why above"))
        };
    }
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    let progress = Progress::begin(title.to_owned());
    let output = child.wait_with_output();
    drop(progress);
    let output = output.map_err(failed)?;
    if output.status.success() {
        tell(format_args!("{title}: {:.1}s", begun.elapsed().as_secs_f32()));
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    Err(format!("{program} failed ({}):\n  {}", output.status, excerpt(&said).join("\n  ")))
}

/// The beginning and the end: one of them says what went wrong.
fn excerpt(said: &str) -> Vec<String> {
    let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
    if let Some(more) = lines.len().checked_sub(2 * SAID).filter(|more| *more > 0) {
        lines.splice(SAID..SAID + more, [format!("… {more} lines …")]);
    }
    lines
}

/// A line on the terminal that counts seconds until it is dropped; elsewhere, the title once.
struct Progress {
    end: Option<mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Progress {
    fn begin(title: String) -> Progress {
        if !std::io::stderr().is_terminal() {
            tell(format_args!("{title} …"));
            return Progress { end: None, thread: None };
        }
        let (end, ended) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let begun = Instant::now();
            let mut error = std::io::stderr();
            loop {
                // A terminal that is gone is no reason to stop the build.
                let _ = write!(error, "\r{title} … {}s ", begun.elapsed().as_secs());
                let _ = error.flush();
                if ended.recv_timeout(Duration::from_secs(1)) != Err(mpsc::RecvTimeoutError::Timeout) {
                    let _ = write!(error, "\r\u{1b}[K");
                    return;
                }
            }
        });
        Progress { end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It does nothing but write.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_for_browsers_is_told_from_a_crate_without_a_plugin() {
        assert!(advice("failed to resolve import `__wbindgen_placeholder__::now`").contains("chrono"));
        assert!(advice("something else").contains("register!"));
    }

    #[test]
    fn a_module_that_asks_for_something_at_its_top_is_told_so() {
        let wizer = "You cannot call arbitrary imported functions during Wizer initialization.";
        assert!(at_the_top(wizer.to_owned()).contains("outside of functions"));
        assert_eq!(at_the_top("x".to_owned()), "x");
    }

    #[test]
    fn of_what_a_tool_said_both_ends_are_shown() {
        let said: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let shown = excerpt(&said.join("\n"));
        assert_eq!((&*shown[29], &*shown[30], &*shown[31]), ("29", "… 40 lines …", "70"));
        assert_eq!(excerpt("a\nb"), ["a", "b"]);
    }
}
