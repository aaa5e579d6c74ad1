/* A plan for people: what lies where, what moves in a sweep, what binds. Pure. */
#ifndef PS_TOOLS_PLAN_TEXT_H
#define PS_TOOLS_PLAN_TEXT_H
#include "base/json.h"
#include "base/strbuf.h"

void ps_plan_text_write(struct ps_strbuf *b, const struct ps_json *plan); /* contract.md "plan" */
#endif
