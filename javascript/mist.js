// The web UI's own progress bar and preview for the Mist tab: it asks for the task whose id goes in as the first input.
function mist_submit() {
    const task = randomId();
    const byId = (id) => gradioApp().getElementById(id);
    requestProgress(task, byId("mist_gallery_container"), byId("mist_gallery"), () => {});
    const inputs = Array.from(arguments);
    inputs[0] = task;
    inputs[1] = get_tab_index("mist_sources"); // a picture, or a directory
    return inputs;
}

// The last result, in the sub-tab "Evaluate".
function mist_evaluate_last() {
    gradioApp().getElementById("mist_sources").querySelector("div").querySelectorAll("button")[2].click();
    return mist_submit(...arguments);
}
