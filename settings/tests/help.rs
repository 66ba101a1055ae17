//! `--help`, word for word.

#[test]
fn help_lists_every_setting_with_its_other_names() {
    // The width is given: that of whoever runs the test must not matter.
    let help = pounce_settings::flags::command().term_width(100).render_help().to_string();
    let mut settings = insta::Settings::clone_current();
    settings.set_omit_expression(true);
    let _bound = settings.bind_to_scope();
    insta::assert_snapshot!(help);
}
