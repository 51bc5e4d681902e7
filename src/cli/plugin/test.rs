//! `palisade plugin test`: recorded exchanges, played against a component in the gateway's own host.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::project::Project;
use super::{bench, block, log, meter, read, read_text, show};
use crate::cli::output::{say, tell};
use crate::config::PluginLimits;
use palisade_exchange::RecordedExchange;

/// Plays every exchange, and says what came of each.
///
/// # Errors
/// The differences; or there is nothing to play, or nothing to play it against.
pub(super) fn run(target: &Path, exchanges: Option<&Path>, only: Option<&str>) -> Result<String, String> {
    let Places { component, folder, changed } = places(target, exchanges)?;
    let files = files(&folder, only)?;
    if let Some(source) = changed {
        return Err(format!(
            "{} is newer than {}: build it first with `palisade plugin build`; what is there is played when it is \
             named itself",
            source.display(),
            component.display()
        ));
    }
    log();
    let limits = PluginLimits::default();
    let bytes = read(&component)?;
    block(async {
        let bench = bench(&component, bytes).await?;
        let meter = meter()?;
        let (mut text, mut failed, mut memory) = (String::new(), 0, 0);
        let begun = Instant::now();
        for file in &files {
            let name = line(&file.file_stem().unwrap_or_default().to_string_lossy());
            let (about, differences, took) = match parse(file) {
                Err(why) => (String::new(), vec![why], None),
                Ok(exchange) => {
                    let played = bench.play(&exchange, limits, std::sync::Arc::clone(&meter)).await;
                    memory = memory.max(played.memory);
                    (line(&exchange.about), played.differences, Some(played.took))
                }
            };
            let took = took.map_or(String::new(), |took| format!(" ({} ms)", took.as_millis()));
            // A text can always grow.
            if differences.is_empty() {
                let _ = writeln!(text, "ok      {name}{took}  {about}");
                continue;
            }
            failed += 1;
            let _ = writeln!(text, "FAILED  {name}{took}  {about}");
            for difference in differences {
                let _ = writeln!(text, "          {}", difference.replace('\n', "\n          "));
            }
        }
        let _ = write!(
            text,
            "{} passed, {failed} failed in {:.1}s, loaded in {:.1}s; memory up to {} of {} (providers.limits.memory)",
            files.len() - failed,
            begun.elapsed().as_secs_f32(),
            bench.took().as_secs_f32(),
            show::size(memory),
            show::size(limits.memory),
        );
        if failed == 0 {
            return Ok(text);
        }
        say(show::harmless(&text)).unwrap_or_else(tell);
        Err(format!(
            "{failed} of {} exchanges are not as recorded ({}); - is what the file says, + what the plugin did",
            files.len(),
            folder.display()
        ))
    })
}

/// `text` on one line.
fn line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// What is played, and against what.
struct Places {
    component: PathBuf,
    folder: PathBuf,
    /// A source that the component does not know of yet.
    changed: Option<PathBuf>,
}

fn places(target: &Path, exchanges: Option<&Path>) -> Result<Places, String> {
    if target.is_dir() {
        let project = Project::open(target)?;
        let component = project.component();
        if !component.is_file() {
            let shown =
                if target == Path::new(".") { String::new() } else { format!(" {}", show::path(target)) };
            return Err(format!(
                "{}.wasm is not there: build it with `palisade plugin build{shown}`",
                project.name
            ));
        }
        let folder = exchanges.map_or_else(|| project.exchanges(), Path::to_owned);
        return Ok(Places { component, folder, changed: project.changed_since_built() });
    }
    if let Err(error) = target.metadata() {
        return Err(format!("{} cannot be read: {error}", target.display()));
    }
    let beside = target.parent().unwrap_or(Path::new("")).join("exchanges");
    let folder = exchanges.map_or(beside, Path::to_owned);
    Ok(Places { component: target.to_owned(), folder, changed: None })
}

fn files(folder: &Path, only: Option<&str>) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(folder).map_err(|error| {
        format!(
            "{} cannot be read: {error}; name the folder of recorded exchanges with --exchanges",
            folder.display()
        )
    })?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .filter(|path| {
            only.is_none_or(|word| path.file_stem().is_some_and(|name| name.to_string_lossy().contains(word)))
        })
        .collect();
    files.sort();
    if files.is_empty() {
        return Err(format!(
            "{} holds no recorded exchange{}; `palisade plugin call … --record` writes one",
            folder.display(),
            only.map_or(String::new(), |word| format!(" with {word:?} in its name"))
        ));
    }
    Ok(files)
}

/// Reads one exchange.
pub(super) fn parse(file: &Path) -> Result<RecordedExchange, String> {
    let text = read_text(file)?;
    let exchange: RecordedExchange = toml::from_str(&text)
        .map_err(|error: toml::de::Error| show::without_long_words(error.to_string().trim_end()))?;
    let checked = exchange.check().and_then(|()| exchange.check_single_values());
    checked.map_err(|why| show::without_long_words(&why.to_string()))?;
    Ok(exchange)
}
