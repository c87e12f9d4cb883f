//! Pictures for the documents: SVG that is readable on a light and on a dark page.

/// What all pictures look like. Without variables, which not every renderer knows.
const LIGHT: &str = "
  text { font: 13px system-ui, sans-serif; fill: #59636e; }
  .title { font-size: 16px; font-weight: 600; }
  .panel { font-weight: 600; }
  .title, .panel { fill: #1f2328; }
  .page { fill: #ffffff; }
  .grid { stroke: #d8dee4; } .axis { stroke: #59636e; }
";
const DARK: &str = "
    text { fill: #9198a1; }
    .title, .panel { fill: #e6edf3; }
    .page { fill: #0d1117; }
    .grid { stroke: #30363d; } .axis { stroke: #9198a1; }
";

/// The beginning of a picture: its page, its title (one for machines, one to be seen) and its style.
/// `light` is for all pages, `dark` changes colours on dark ones. `</svg>` is the caller's.
pub fn begin(size: (f64, f64), name: &str, title: (f64, &str), light: &str, dark: &str) -> String {
    let (width, height) = size;
    let (left, title) = title;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\">\n\
         <title>{name}</title>\n\
         <style>{LIGHT}{light}  @media (prefers-color-scheme: dark) {{{DARK}{dark}  }}\n</style>\n\
         <rect class=\"page\" width=\"{width}\" height=\"{height}\"/>\n\
         <text class=\"title\" x=\"{left}\" y=\"30\">{title}</text>\n",
    )
}

/// Adds a line.
pub fn line(svg: &mut String, text: &str) {
    svg.push_str(text);
    svg.push('\n');
}
