# Covariances of estimates and tests of structural change by lavaan, sandwich and strucchange.
#   Rscript inference.R FOLDER
# reads x.csv (a header of names; NA is missing), clusters.csv (two columns of labels) and, where there is one, model.lav (lavaan's syntax
# of a model with constraints) from FOLDER, fits the saturated model by lavaan, and writes numbers with 17 digits to results.csv
# there, a line each: name, position..., value.
# sandwich and strucchange see the model through lavaan's casewise scores and the inverse of its information.
suppressPackageStartupMessages({library(lavaan); library(sandwich); library(strucchange)})
folder <- commandArgs(trailingOnly = TRUE)[1]
file <- function(name) file.path(folder, name)
x <- read.csv(file("x.csv"), check.names = FALSE)
clusters <- read.csv(file("clusters.csv"))
v <- colnames(x)
d <- length(v)
lines <- character(0)
for (j in seq_len(d)) for (i in j:d) lines <- c(lines, sprintf("%s ~~ %s", v[i], v[j]))
for (i in seq_len(d)) lines <- c(lines, sprintf("%s ~ 1", v[i]))
out <- file("results.csv")
cat("name,row,column,value\n", file = out)
put <- function(name, value) {
  value <- as.matrix(unclass(value))
  for (i in seq_len(nrow(value))) for (j in seq_len(ncol(value)))
    cat(sprintf("%s,%d,%d,%.17e\n", name, i - 1, j - 1, value[i, j]), file = out, append = TRUE)
}
estimated <- function(se, information)
  lavaan(paste(lines, collapse = "\n"), data = x, meanstructure = TRUE, likelihood = "normal", se = se, information = information,
         observed.information = "h1", h1.information = "structured", missing = if (anyNA(x)) "ml" else "listwise",
         control = list(rel.tol = 1e-15, abs.tol = 1e-20), check.gradient = FALSE, warn = FALSE)
fit <- estimated("standard", "expected")
put("mean", lavInspect(fit, "implied")$mean)
put("sigma", lavInspect(fit, "implied")$cov)
put("lavaan expected", vcov(fit))
put("lavaan observed", vcov(estimated("standard", "observed")))
put("lavaan opg", vcov(estimated("standard", "first.order")))
put("lavaan sandwich", vcov(estimated("robust.huber.white", "observed")))
n <- nrow(x)
model <- structure(list(scores = unclass(estfun.lavaan(fit)), inverse = vcov(estimated("standard", "observed")) * n), class = "seen")
estfun.seen <- function(x, ...) x$scores
bread.seen <- function(x, ...) x$inverse
registerS3method("estfun", "seen", estfun.seen, envir = asNamespace("sandwich"))
registerS3method("bread", "seen", bread.seen, envir = asNamespace("sandwich"))
residuals.seen <- function(object, ...) stop("there are none")  # `bwNeweyWest` then weights all scores by 1
registerS3method("residuals", "seen", residuals.seen, envir = asNamespace("stats"))
put("scores", model$scores)
put("bread", model$inverse)
put("opg", vcovOPG(model))
put("opg adjust", vcovOPG(model, adjust = TRUE))
put("sandwich", sandwich(model))
put("sandwich adjust", sandwich(model, adjust = TRUE))
put("clustered", vcovCL(model, cluster = clusters[[1]]))
put("clustered HC1", vcovCL(model, cluster = clusters[[1]], type = "HC1"))
put("clustered cadjust FALSE", vcovCL(model, cluster = clusters[[1]], cadjust = FALSE))
put("clustered two ways", vcovCL(model, cluster = clusters))
crossed <- list(g = clusters[[1]] %/% 3, h = clusters[[2]] %/% 2)  # few of them, so that the two ways' difference is indefinite
put("clustered crossed", suppressWarnings(vcovCL(model, cluster = crossed)))
put("clustered crossed fix", vcovCL(model, cluster = crossed, fix = TRUE))
for (lag in c(0, 3)) for (prewhite in 0:2) for (adjust in c(FALSE, TRUE))
  put(sprintf("NeweyWest lag %d prewhite %d adjust %d", lag, prewhite, adjust),
      NeweyWest(model, lag = lag, prewhite = prewhite, adjust = adjust))
for (prewhite in 0:1) {
  put(sprintf("bwNeweyWest prewhite %d", prewhite), bwNeweyWest(model, prewhite = prewhite))
  put(sprintf("NeweyWest prewhite %d", prewhite), NeweyWest(model, prewhite = prewhite))
}
backwards <- rev(seq_len(n))
for (kernel in c("Bartlett", "Parzen", "Quadratic Spectral", "Truncated", "Tukey-Hanning")) for (prewhite in 0:1) {
  named <- sprintf("%s prewhite %d", kernel, prewhite)
  put(paste("bwAndrews", named), bwAndrews(model, kernel = kernel, prewhite = prewhite))
  put(paste("kernHAC", named), kernHAC(model, kernel = kernel, prewhite = prewhite, adjust = FALSE))
  put(paste("kernHAC 2.5", named), kernHAC(model, bw = 2.5, kernel = kernel, prewhite = prewhite, adjust = TRUE))
  if (kernel %in% c("Bartlett", "Parzen", "Quadratic Spectral"))
    put(paste("kernHAC Newey-West", named), kernHAC(model, bw = bwNeweyWest, kernel = kernel, prewhite = prewhite, adjust = FALSE))
}
put("NeweyWest order.by", NeweyWest(model, lag = 3, prewhite = 1, order.by = (seq_len(n) * 7) %% n))
tests <- list(maxBB = maxBB, meanL2BB = meanL2BB, supLM = supLM(0.15), "supLM 0.1 0.7" = supLM(0.1, 0.7))
# `gefp` wants a fitting function's result
process_of <- function(...) gefp(model, fit = NULL, ...)
put_tests <- function(name, process) {
  put(paste(name, "process"), coredata(process$process))
  for (test in names(tests)) {
    result <- sctest(process, functional = tests[[test]])
    put(paste(name, test), cbind(result$statistic, result$p.value))
  }
}
put_tests("opg", process_of())
put_tests("observed", process_of(vcov = function(x, ...) solve(bread(x)), sandwich = FALSE))
put_tests("some", process_of(parm = 2:4))
put_tests("one by itself", process_of(parm = 2, decorrelate = FALSE))
put_tests("ordered", process_of(order.by = (seq_len(n) * 7) %% n))
put_tests("hac", process_of(vcov = function(x, ...) NeweyWest(x, lag = 3, prewhite = 1, sandwich = FALSE), sandwich = FALSE))
put("critical value", maxBB$computeCritval(0.05, nproc = ncol(model$scores)))
if (file.exists(file("model.lav"))) {
  constrained <- lavaan(paste(readLines(file("model.lav")), collapse = "\n"), data = x, meanstructure = TRUE, likelihood = "normal",
                        information = "expected", warn = FALSE)
  put("constrained mean", lavInspect(constrained, "implied")$mean)
  put("constrained sigma", lavInspect(constrained, "implied")$cov)
  zero <- lavTestScore(constrained, add = readLines(file("zero.txt")))
  put("zero test", cbind(zero$test$X2, zero$test$df, zero$test$p.value))
  put("zero uni", cbind(zero$uni$X2, zero$uni$df, zero$uni$p.value))
  fixed <- gsub("~~ ", "~~ 0*", readLines(file("zero.txt")))  # modindices lists what the model names
  with_zeros <- lavaan(paste(c(readLines(file("model.lav")), fixed), collapse = "\n"), data = x, meanstructure = TRUE,
                       likelihood = "normal", information = "expected", warn = FALSE)
  changes <- modindices(with_zeros, standardized = FALSE)
  put("modindices", cbind(changes$mi, changes$epc))
  equal <- lavTestScore(constrained)
  put("equal test", cbind(equal$test$X2, equal$test$df, equal$test$p.value))
  put("equal uni", cbind(equal$uni$X2, equal$uni$df, equal$uni$p.value))
}
writeLines(paste0("parameter,", colnames(model$scores)), file("parameters.csv"))
writeLines(c(paste0("lavaan,", packageVersion("lavaan")), paste0("sandwich,", packageVersion("sandwich")),
             paste0("strucchange,", packageVersion("strucchange")), paste0("r,", R.version.string)), file("about.csv"))
