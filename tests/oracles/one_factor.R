# A model of one factor in lavaan: its standard errors, its test against the saturated model, its criteria.
# Usage: Rscript one_factor.R FOLDER, with x.csv there; writes estimates.csv and measures.csv.
suppressMessages(library(lavaan))
folder <- commandArgs(trailingOnly = TRUE)[1]
x <- read.csv(file.path(folder, "x.csv"))
v <- names(x); d <- length(v)
loadings <- paste0("f =~ ", paste0("l", 1:d, "*", v, collapse = " + "))
residuals <- paste0(v, " ~~ e", 1:d, "*", v)
defined <- c()
for (j in 1:d) for (i in j:d) {
  implied <- paste0("l", i, "*l", j, if (i == j) paste0(" + e", i) else "")
  defined <- c(defined, paste0("s_", i, "_", j, " := ", implied))
}
fit <- cfa(paste(c(loadings, residuals, defined), collapse = "\n"), x, std.lv = TRUE, meanstructure = TRUE,
           information = "expected")
found <- parameterEstimates(fit)
full <- function(value) formatC(value, digits = 17, format = "g")
write.csv(data.frame(lhs = found$lhs, op = found$op, rhs = found$rhs, est = full(found$est), se = full(found$se)),
          file.path(folder, "estimates.csv"), row.names = FALSE)
measures <- fitMeasures(fit, c("chisq", "df", "pvalue", "logl", "npar", "aic", "bic"))
write.csv(data.frame(name = names(measures), value = full(as.numeric(measures))), file.path(folder, "measures.csv"),
          row.names = FALSE)
