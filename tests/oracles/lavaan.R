# The saturated Gaussian model in lavaan, evaluated at given values: casewise scores, log-likelihood, information.
#   Rscript lavaan.R FOLDER
# reads x.csv (a header of names; NA is missing, no row is all NA), mean.csv (one row) and sigma.csv from FOLDER, and writes
# scores.csv, log_prob.csv, expected.csv, observed.csv, first_order.csv and about.csv there, with 17 digits.
# observed.information = "h1" is lavaan's analytic Hessian of the saturated model; its default differentiates the gradient
# numerically, with an error of 1e-9, and of 4 to 40 % for daily returns (variances of 1e-5).
# With missing entries (missing = "ml"): h1 = FALSE and the like leave out the EM estimate of the saturated model, which nothing here
# needs and which does not exist where two variables are never observed together.
suppressPackageStartupMessages(library(lavaan))
folder <- commandArgs(trailingOnly = TRUE)[1]
file <- function(name) file.path(folder, name)
x <- read.csv(file("x.csv"), check.names = FALSE)
mean <- as.numeric(read.csv(file("mean.csv"), check.names = FALSE)[1, ])
sigma <- as.matrix(read.csv(file("sigma.csv"), check.names = FALSE))
number <- function(value) sprintf("%.17e", value)
v <- colnames(x)
d <- length(v)
lines <- character(0)
for (j in seq_len(d)) {
  for (i in j:d) {
    lines <- c(lines, sprintf("%s ~~ start(%s)*%s", v[i], number(sigma[i, j]), v[j]))
  }
}
for (i in seq_len(d)) lines <- c(lines, sprintf("%s ~ start(%s)*1", v[i], number(mean[i])))
fit <- lavaan(paste(lines, collapse = "\n"), data = x, meanstructure = TRUE, do.fit = FALSE, likelihood = "normal",
              missing = if (anyNA(x)) "ml" else "listwise", observed.information = "h1", h1.information = "structured",
              h1 = FALSE, baseline = FALSE, se = "none", test = "none", check.gradient = FALSE, check.post = FALSE,
              check.vcov = FALSE, warn = FALSE)
implied <- lavInspect(fit, "implied")
stopifnot(colnames(implied$cov) == v, implied$cov == sigma, implied$mean == mean)  # at the very values
write <- function(value, name) {
  text <- apply(unclass(value), c(1, 2), number)
  write.table(text, file(name), sep = ",", row.names = FALSE, quote = FALSE)
}
write(estfun.lavaan(fit), "scores.csv")
write(cbind(log_prob = lavInspect(fit, "loglik.casewise")), "log_prob.csv")
write(lavInspect(fit, "information.expected"), "expected.csv")
write(lavInspect(fit, "information.observed"), "observed.csv")
write(lavInspect(fit, "information.first.order"), "first_order.csv")
about <- c(number(as.numeric(logLik(fit))), as.character(packageVersion("lavaan")), R.version.string)
writeLines(c("key,value", paste0(c("log_likelihood", "lavaan", "r"), ",", about)), file("about.csv"))
