/* fastkernels report: what a record of bench says, as text or as a page. */
#include "cli/cli.h"
#include "judge/result.h"

static const cli_option options[] = {{"html", "FILE", "write one self-contained page for a browser"}, {0}};

static const cli_spec spec = {.command = "report",
                              .arguments = "R.json",
                              .summary = "Shows a record of bench (bench --output R.json): as text, or as a page.",
                              .min_args = 1,
                              .max_args = 1,
                              .options = options};

int fk_cmd_report(int argc, char **argv) {
  cli c;
  int status = 2;
  fk_result *result;
  if (!cli_parse(&c, &spec, argc, argv, &status)) return status;
  if (fk_result_load(c.args[0], &result) != FK_OK) return cli_error(&c);
  const char *html = cli_value(&c, "html");
  status = 0;
  if (!html)
    fk_result_print(result, stdout, cli_color());
  else if (fk_result_write_html(result, html) != FK_OK)
    status = cli_error(&c);
  fk_result_free(result);
  return status;
}
