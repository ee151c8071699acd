//! What each strategy is asked to do. The same words go to the scripted and to a real model.

use dash::api::CreateSwarm;
use dash::model::Strategy;

/// Where the report goes, as agents see it.
pub(crate) const REPORT: &str = "out/report.md";

/// The words that introduce a list of files; the scripted model looks for them, too.
pub(crate) const FILES: &str = "Files:";

/// The swarm that this strategy makes of these groups of files.
pub(crate) fn swarm(strategy: Strategy, groups: &[Vec<String>]) -> CreateSwarm {
    let lists: Vec<String> = groups
        .iter()
        .map(|group| format!("{FILES} {}", group.join(" ")))
        .collect();
    let notes = "Read each of your files with the tool `read` and take notes: what is it about, \
                 what are its sections?";
    let (task, parts) = match strategy {
        Strategy::Parallel => (
            format!("{notes} Answer with your notes, one section per file."),
            lists,
        ),
        Strategy::MapReduce | Strategy::Dag => (
            format!(
                "Write a report about a set of files. If you have a part with files: {notes} \
                 Answer with your notes. If you combine the parts: write the report to {REPORT} \
                 with the tool `write`, then say what is in it."
            ),
            lists,
        ),
        Strategy::Pipeline => (
            "Write a report about a set of files, in stages.".to_owned(),
            vec![
                format!(
                    "choose the files to read. Answer with a list of this form.\n{FILES} {}",
                    groups.concat().join(" ")
                ),
                format!("the stage before has listed files. {notes} Answer with your notes."),
                format!(
                    "write a report made of the notes to {REPORT} with the tool `write`, then say \
                     what is in it."
                ),
            ],
        ),
        Strategy::Tree => (
            format!(
                "Delegate each of these lists of files to a child of its own with the tool \
                 `delegate`. Tell each child: {notes} Then write a report made of the children's \
                 notes to {REPORT} with the tool `write`, and say what is in it.\n\n{}",
                lists.join("\n")
            ),
            Vec::new(),
        ),
    };
    let mut request = CreateSwarm::new("report", task);
    request.strategy = strategy;
    request.parts = parts;
    request
}
