/* Runs a sampling plan with a model of its own: x <- a*x + sum_k b[k]*y[i-k].
   Reads from standard input: rows, history, size, prior_scale; then for each row time, alpha, sigma, a, b[0..history-1];
   then the unit noise. The model here is exact for data N(0, 0.5^2): epsilon = sigma*x / (alpha^2*0.25 + sigma^2). */
#include <stdio.h>
#include <stdlib.h>

static void model(const double *x, double alpha, double sigma, double *y, int size) {
    for (int j = 0; j < size; j++) y[j] = sigma * x[j] / (alpha * alpha * 0.25 + sigma * sigma);
}

static double number(void) {
    double value;
    if (scanf("%lf", &value) != 1) exit(1);
    return value;
}

int main(void) {
    int rows = (int)number(), history = (int)number(), size = (int)number();
    double scale = number();
    double *row = malloc(sizeof(double) * rows * (4 + history)), *x = malloc(sizeof(double) * size);
    double *y = calloc((size_t)rows * size, sizeof(double));
    for (int i = 0; i < rows * (4 + history); i++) row[i] = number();
    for (int j = 0; j < size; j++) x[j] = scale * number();
    for (int i = 0; i < rows; i++) {
        const double *r = row + i * (4 + history); /* time, alpha, sigma, a, b[0], b[1], ... */
        model(x, r[1], r[2], y + i * size, size);
        for (int j = 0; j < size; j++) {
            double next = r[3] * x[j];
            for (int k = 0; k < history && k <= i; k++) next += r[4 + k] * y[(i - k) * size + j];
            x[j] = next;
        }
    }
    for (int j = 0; j < size; j++) printf("%.17g\n", x[j]);
    return 0;
}
