#include "tasks/perceptron.h"

fk_status fk_compose_perceptron(fk_context *ctx, const fk_perceptron_args *a) {
  FK_TRY(fk_call(ctx, "linear", a->x, a->weight, a->bias, a->out));
  return fk_call(ctx, "relu", a->out, a->out);
}
