# SPDX-License-Identifier: MIT
# What several models get right after 1, 2, .. tokens: the mean over the seeds, and a band from the lowest to the highest.
#
#   input     CSV with a header line and the columns model,seed,length,right; every seed of a model has the same lengths.
#             Of lengths that are less than 1.25 % apart, about a pixel, one is drawn
#   output    name of the pictures, without .svg and .png
#   trained   tokens of a sequence in training
#   guessing  (optional) what guessing gets right, in percent
#   title     (optional)
#
#   gnuplot -e "input='lengths.csv'; output='lengths'; trained=64" lengths.gp

if (!exists("input")) input = "lengths.csv"
if (!exists("output")) output = "lengths"
if (!exists("guessing")) guessing = NaN
if (exists("title")) set title title noenhanced

array color[6] = ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"]
models = system(sprintf("awk -F, 'NR > 1 && !seen[$1]++ { print $1 }' '%s'", input))
band(model) = sprintf("< awk -F, -v model='%s' 'NR > 1 && $1 == model { if (!n[$3]++) { length_[++m] = $3; low[$3] = high[$3] = $4 } sum[$3] += $4; if ($4 < low[$3]) low[$3] = $4; if ($4 > high[$3]) high[$3] = $4 } END { for (i = 1; i <= m; ++i) { t = length_[i]; if (i == 1 || i == m || t >= 1.0125 * last) { print t, low[t], high[t], sum[t] / n[t]; last = t } } }' '%s'", model, input)
label(model) = system(sprintf("echo '%s' | tr _ ' '", model))

set logscale x 2
set yrange [0:103]
set xlabel "tokens read"
set ylabel "states right (%)"
set grid ytics lc rgb "#dddddd" lw 1
set border 3
set tics nomirror out
set key outside bottom center horizontal Left reverse samplen 3 noautotitle noenhanced
set style fill transparent solid 0.18 noborder
set arrow from trained, graph 0 to trained, graph 1 nohead dt 2 lw 1.5 lc rgb "#555555"
set label "trained up to here" at trained, graph 1.03 right font ",14" textcolor rgb "#555555" offset -0.5, 0

do for [format in "svg png"] {
  if (format eq "svg") { set terminal svg size 800,500 font "sans,18" background rgb "white" }
  else { set terminal pngcairo size 1200,750 font "sans,25" linewidth 1.5 }
  set output output . "." . format
  plot for [i = 1:words(models)] band(word(models, i)) using 1:2:3 with filledcurves lc rgb color[(i - 1) % 6 + 1], \
       guessing with lines lw 1.5 dt 3 lc rgb "#555555" title "guessing", \
       for [i = 1:words(models)] band(word(models, i)) using 1:4 with lines lw 2.5 lc rgb color[(i - 1) % 6 + 1] \
           title label(word(models, i))
}
