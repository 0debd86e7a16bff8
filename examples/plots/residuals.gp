# SPDX-License-Identifier: MIT
# The final metric of several variants: a point for each seed, the mean and its standard deviation over the seeds.
#
#   input    CSV with a header line and the columns variant,seed,metric
#   output   name of the pictures, without .svg and .png
#   ylabel   (optional) what the metric is, with its unit, "test accuracy (%)"
#
#   gnuplot -e "input='residuals.csv'; output='residuals'" residuals.gp

if (!exists("input")) input = "residuals.csv"
if (!exists("output")) output = "residuals"
if (!exists("ylabel")) ylabel = "metric"

array color[6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"]
variants = system(sprintf("awk -F, 'NR > 1 && !seen[$1]++ { print $1 }' '%s'", input))
# Seed by seed, left to right: the seeds of a variant are spread over its place.
points(variant) = sprintf("< awk -F, -v variant='%s' 'NR > 1 && $1 == variant { y[++n] = $3 } END { for (i = 1; i <= n; ++i) print (n > 1 ? 0.3 * ((i - 1) / (n - 1) - 0.5) : 0), y[i] }' '%s'", variant, input)
summary(variant) = sprintf("< awk -F, -v variant='%s' 'NR > 1 && $1 == variant { y[++n] = $3; sum += $3 } END { mean = sum / n; for (i in y) s += (y[i] - mean) ^ 2; print mean, (n > 1 ? sqrt(s / (n - 1)) : 0) }' '%s'", variant, input)

set xrange [0.4:words(variants) + 0.6]
set xtics ("" 1)
do for [i = 1:words(variants)] {
  name = word(variants, i)
  set xtics add (sprintf("%s", name) i) noenhanced
}
set xlabel "update rule"
set ylabel ylabel
set format y "%g"
set offsets 0, 0, graph 0.08, graph 0.08
set grid ytics lc rgb "#dddddd" lw 1
set border 3
set tics nomirror out
set key noautotitle outside top center horizontal Left reverse

do for [format in "svg png"] {
  if (format eq "svg") { set terminal svg size 800,500 font "sans,18" background rgb "white"; point = 0.45 }
  else { set terminal pngcairo size 1200,750 font "sans,25" linewidth 1.5; point = 1 }
  set output output . "." . format
  plot for [i = 1:words(variants)] points(word(variants, i)) using (i - 0.12 + $1):2 \
           with points pt 7 ps 1.6 * point lc rgb color[(i - 1) % 6 + 1], \
       for [i = 1:words(variants)] summary(word(variants, i)) using (i + 0.22):1:2 \
           with yerrorbars pt 5 ps 2 * point lw 2.5 lc rgb color[(i - 1) % 6 + 1], \
       keyentry with points pt 7 ps 1.6 * point lc rgb "#555555" title "one seed", \
       keyentry with yerrorbars pt 5 ps 2 * point lw 2.5 lc rgb "#555555" title "mean and standard deviation"
}
