# Maximum likelihood factor analysis of correlations by R's factanal, unrotated.
#   Rscript factanal.R FOLDER
# reads x.csv (a header of names) and factors.csv (a column k) from FOLDER, and writes uniquenesses.csv, loadings.csv and about.csv.
# lower = 1e-5 instead of 0.005 lets small uniquenesses be; factr = 1000 is the tightest at which its L-BFGS-B still ends well.
folder <- commandArgs(trailingOnly = TRUE)[1]
file <- function(name) file.path(folder, name)
x <- read.csv(file("x.csv"), check.names = FALSE)
number <- function(value) sprintf("%.17e", value)
for (k in read.csv(file("factors.csv"))$k) {
  fit <- factanal(x, k, rotation = "none", control = list(nstart = 1, lower = 1e-5, opt = list(factr = 1000, maxit = 5000)))
  stopifnot(fit$converged)
  values <- cbind(uniqueness = fit$uniquenesses, unclass(fit$loadings))
  values <- rbind(values, c(fit$criteria[["objective"]], rep(0, k)))
  write.table(apply(values, c(1, 2), number), file(paste0("fit", k, ".csv")), sep = ",", row.names = FALSE, quote = FALSE)
}
writeLines(R.version.string, file("about.txt"))
