/* What the parts of the HTML page share. The page is written as it goes; nothing is kept. */
#ifndef FK_JUDGE_PAGE_H
#define FK_JUDGE_PAGE_H

#include "judge/result.h"

extern const char fk_page_style[]; /* CSS */

/* A string of the record: escaped, control characters replaced, changes of writing direction made visible. */
void fk_page_text(FILE *out, const char *text);

/* "12.3 µs"; a dash when there is nothing to say. */
const char *fk_page_time(double ns, char text[32]);

/* Plots, as inline SVG. */
void fk_page_samples(FILE *out, const fk_result_case *c);
void fk_page_interval(FILE *out, const fk_result_case *c, double reach); /* axis from 1 / reach to reach */
/* Every passing case under the measured ceilings; wide and narrow differ in shape, so that text keeps its size. */
void fk_page_roofline(FILE *out, const fk_result *r, bool wide);
int fk_page_roofline_points(const fk_result *r); /* cases that it can show */

#endif
